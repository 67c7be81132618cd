"""Pairs whose sides read alike teach nothing and measure nothing: they are left out, counted, and told in words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workers.rewards.config import Refused
from workers.rewards.data.snapshot import read_snapshot, write_snapshot
from workers.rewards.data.split import Split
from workers.rewards.evaluate import main as evaluate_main
from workers.rewards.evaluation.metrics import evaluate_run
from workers.rewards.models.load import load_tokenizer
from workers.rewards.text.readable import readable, reads_alike, report
from workers.rewards.text.sections import Template
from workers.rewards.training.loop import train

MakeRun = Callable[..., Path]
Rows = list[dict[str, Any]]


def pairs_of(*texts: tuple[str, str]) -> tuple[Rows, Rows]:
    """Responses and judgements of one pair a prompt, the first preferred."""
    responses, judgements = [], []
    for number, pair in enumerate(texts):
        messages = [{"role": "user", "content": f"how do i keep plant {number} alive"}]
        for side, text in zip("ab", pair, strict=True):
            responses.append(
                {
                    "response_id": f"{number}{side}",
                    "prompt_id": f"p{number}",
                    "messages": messages,
                    "text": text,
                }
            )
        judgements.append({"response_a": f"{number}a", "response_b": f"{number}b", "verdict": "a"})
    return responses, judgements


def test_every_cause_is_told_from_the_others(tiny_encoder: Path, tmp_path: Path) -> None:
    long = "water it weekly " * 30
    write_snapshot(
        tmp_path,
        *pairs_of(
            ("water it", "no idea"),
            ("\U0001f44d", "\U0001f44e"),
            ("water it", "water it"),
            ("Water it", "water  it"),
            (long + "light " + long, long + "idea " + long),
            ("\U0001f44d", "\U0001f44d \U0001f44d"),
        ),
    )
    snapshot = read_snapshot(tmp_path)
    template = Template(
        load_tokenizer("tiny", str(tiny_encoder)), architecture="encoder", ordinal=False, max_length=64
    )
    rows = template.encode(snapshot.responses)
    alike = reads_alike(snapshot, rows)
    assert alike == {
        ("1a", "1b"): "unknown",
        ("2a", "2b"): "equal",
        ("3a", "3b"): "spelling",
        ("4a", "4b"): "cut",
    }
    assert [row["response_a"] for row in readable(snapshot, alike).judgements] == ["0a", "5a"]
    split = Split(frozenset({"p0", "p1"}), "group")
    found = report(snapshot, rows, alike, split, max_length=64, token="[UNK]")
    assert found["pairs"] == {"n": 6, "equal": 1, "cut": 1, "unknown": 1, "spelling": 1}
    assert found["held_out"] == {"n": 2, "equal": 0, "cut": 0, "unknown": 1, "spelling": 0}
    assert (found["responses"], found["truncated"], found["cut"], found["unknown"]) == (12, 2, 2, 5)
    assert found["tokens"] == sum(len(row) for row in rows)
    *of_pairs, of_cut = found["notes"]
    assert [note.split(":")[0] for note in of_pairs] == ["1 of 6 pairs read alike"] * 4
    assert of_cut.startswith(
        "16.7% of the responses lost their middle, for they are longer than the 64 tokens"
    )
    assert "raise max_length (this run read 64 tokens)" in found["notes"][1]


def test_unknown_tokens_are_said_from_five_percent(tiny_encoder: Path, tmp_path: Path) -> None:
    write_snapshot(tmp_path, *pairs_of(("\u4f60\u597d \u5417 water", "no idea")))
    snapshot = read_snapshot(tmp_path)
    template = Template(
        load_tokenizer("tiny", str(tiny_encoder)), architecture="encoder", ordinal=False, max_length=64
    )
    rows = template.encode(snapshot.responses)
    found = report(snapshot, rows, {}, Split(frozenset(), "none"), max_length=64, token="[UNK]")
    (note,) = found["notes"]
    assert note.startswith(f"{found['unknown'] / found['tokens']:.1%} of the tokens are [UNK]")


def test_special_tokens_spelt_in_a_text_are_no_unknown_ones(tiny_encoder: Path, tiny_lm: Path) -> None:
    for base, backbone in ((tiny_encoder, "encoder"), (tiny_lm, "causal")):
        template = Template(
            load_tokenizer("tiny", str(base)), architecture=backbone, ordinal=False, max_length=64
        )
        (row,) = template.encode([{"messages": [], "text": "score [UNK"}])
        assert row.unknown == (
            1 if backbone == "encoder" else 0
        )  # "UNK" is none of the tiny vocabulary's words


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("bt", {"tuning": "frozen"}),
        ("oprm", {}),
        ("clf", {"hardening": 0.5}),
        ("bt", {"patience": 2, "votes": "majority"}),
    ],
)
def test_such_pairs_are_left_out_of_training_and_measuring(
    method: str, config: dict[str, Any], make_run: MakeRun, tiny_encoder: Path
) -> None:
    texts = [("water it", "no idea")] * 20 + [("\U0001f44d", "\U0001f44e")] * 20
    responses, judgements = pairs_of(*texts)
    held_out = [f"p{number}" for number in (0, 1, 2, 3, 20, 21, 22)]
    folder = make_run(
        tiny_encoder,
        method,
        responses=responses,
        judgements=judgements,
        levels=[],
        held_out_groups=held_out,
        **config,
    )
    metrics = train(folder)
    watched = 0 if "patience" not in config else len([*range(4, 20), *range(23, 40)]) // 10
    assert metrics["reading"]["pairs"] == {"n": 40, "equal": 0, "cut": 0, "unknown": 20, "spelling": 0}
    assert metrics["reading"]["held_out"]["unknown"] == 3
    assert metrics["held_out"]["pairs"]["n"] == 4
    assert metrics["held_out"]["pairs"]["accuracy"]["n"] == 4
    assert metrics["training"]["dropped"]["reads_alike"] == 17 if not watched else True
    assert metrics["training"]["judgements"] == 16 if not watched else metrics["training"]["judgements"] <= 16
    (note, unknown) = metrics["reading"]["notes"]
    assert note.startswith("20 of 40 pairs read alike: the base model knows none of the characters")
    assert "of the tokens are [UNK]" in unknown
    assert json.loads((folder / "metrics.json").read_text())["reading"] == metrics["reading"]


def test_the_command_that_measures_leaves_them_out_as_well(
    make_run: MakeRun, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    responses, judgements = pairs_of(*[("water it", "no idea")] * 10, *[("\U0001f44d", "\U0001f44e")] * 10)
    folder = make_run(tiny_encoder, "bt", responses=responses, judgements=judgements, levels=[])
    train(folder)
    capsys.readouterr()
    assert evaluate_main([str(folder / "model"), str(folder / "snapshot")]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["reading"]["held_out"] == {"n": 20, "equal": 0, "cut": 0, "unknown": 10, "spelling": 0}
    assert measured["metrics"]["pairs"]["n"] == 10


def test_levels_alone_still_teach_and_pairs_alone_are_refused(make_run: MakeRun, tiny_encoder: Path) -> None:
    responses, judgements = pairs_of(*[("\U0001f44d", "\U0001f44e")] * 10)
    levels = [
        {"response_id": row["response_id"], "level": "good" if row["response_id"][-1] == "a" else "bad"}
        for row in responses
    ]
    tables = {"responses": responses, "judgements": judgements, "levels": levels}
    metrics = train(make_run(tiny_encoder, "rgft", **tables))
    assert metrics["held_out"]["pairs"] is None
    assert metrics["training"]["judgements"] == 0
    with pytest.raises(
        Refused, match=r"10 of 10 pairs read alike: the base model knows none .* \(no label is left"
    ):
        train(make_run(tiny_encoder, "bt", name="bt", level_terms="none", **tables))


def test_equal_ids_have_equal_scores_so_nothing_is_lost_by_leaving_them_out() -> None:
    """Against the definition: such a pair is a model tie, whatever the weights."""
    rows = [{"response_id": name, "group": "g", "text": name} for name in "ab"]
    judgements = [{"response_a": "a", "response_b": "b", "verdict": "a", "annotator": "x"}]
    measured = evaluate_run(
        responses=rows, judgements=judgements, levels=[], scores={"a": 0.3, "b": 0.3}, probs=None, kind="scalar",
        tie=None, temperature=1.0, partition=(3, 6), seed=0,
    )  # fmt: skip
    assert (measured["pairs"]["model_ties"], measured["pairs"]["accuracy"]["value"]) == (1, 0.5)
