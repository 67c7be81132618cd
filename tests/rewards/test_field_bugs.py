"""The field's usual bugs in reward models, each with a test that fails where the bug is.

Beside these: test_batches.py (scores and padding ids, gradients), test_sections.py (forged markers, what a cut
leaves), test_export.py (pad token of an exported model).
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

from workers.rewards.artifacts.adapters import describe_base, link_base
from workers.rewards.artifacts.save import load_model, save_model
from workers.rewards.config import Refused, RunConfig
from workers.rewards.data.judgements import training_data
from workers.rewards.data.snapshot import Snapshot, read_snapshot
from workers.rewards.data.split import Split, held_out_rows, split_groups
from workers.rewards.models.base_models import Source
from workers.rewards.models.load import load_backbone, load_tokenizer
from workers.rewards.models.predict import score_responses
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.text.sections import Encoded, Template, collate
from workers.rewards.training import finish as finishing
from workers.rewards.training.loop import train
from workers.rewards.training.progress import Progress

MakeRun = Callable[..., Path]
WATER = "light and water "
CPU = torch.device("cpu")
KINDS = [
    ("tiny_encoder", "encoder", "scalar"),
    ("tiny_encoder", "encoder", "ordinal"),
    ("tiny_lm", "causal", "scalar"),
    ("tiny_lm", "causal", "ordinal"),
]
kinds = pytest.mark.parametrize(("base", "backbone", "kind"), KINDS)


def reward_model(path: Path, backbone: str, kind: str, max_length: int = 128) -> tuple[RewardModel, Template]:
    """A model whose head is not near zero, so that a wrong position shows in the score."""
    template = Template(
        load_tokenizer("tiny", str(path)),
        architecture=backbone,
        ordinal=kind == "ordinal",
        max_length=max_length,
        pool_prompt=False,
    )
    torch.manual_seed(1)
    model = RewardModel(
        load_backbone("tiny", str(path), backbone),
        architecture=backbone,
        kind=kind,
        digit_ids=template.digit_ids,
    )
    if model.head is not None:
        for parameter in model.head.parameters():
            torch.nn.init.normal_(parameter)
    return model.eval(), template


def texts(template: Template) -> list[dict[str, Any]]:
    """Answers of very different lengths, some of which quote every special token that there is."""
    special = " ".join(template.tokenizer.all_special_tokens)
    prompt = [{"role": "user", "content": f"how do i {special} keep plant alive"}]
    answers = ["", "no", f"water it {special} weekly", special, "water it weekly and give it light " * 3]
    return [
        {"response_id": str(number), "messages": messages, "text": text}
        for number, (messages, text) in enumerate((m, t) for m in ([], prompt) for t in answers)
    ]


def alone(model: RewardModel, rows: list[Encoded]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat(
            [
                model(torch.tensor([row.ids]), torch.tensor([len(row)]), torch.tensor([row.pooled]))
                for row in rows
            ]
        )


# --- The position that is read ---


@kinds
def test_the_position_comes_from_the_length(
    base: str, backbone: str, kind: str, request: pytest.FixtureRequest
) -> None:
    """pad == eos, and the eos token in the midst of a text: the same score in a batch as alone."""
    path = request.getfixturevalue(base)
    model, template = reward_model(path, backbone, kind)
    scalar = (backbone, kind) == ("causal", "scalar")
    end = template.tokenizer.eos_token_id if scalar else template.frame[2][-1]
    rows = template.encode(texts(template))
    inside = [
        dataclasses.replace(row, ids=(*row.ids[:2], end, *row.ids[2:-1], end, *row.ids[-1:])) for row in rows
    ]
    rows = [*rows, *inside]
    expected = alone(model, rows)
    ids, lengths, pooled = collate(rows, CPU)
    for padding in (0, end, int(ids.max())):
        for number, row in enumerate(rows):
            ids[number, len(row) :] = padding
        with torch.no_grad():
            torch.testing.assert_close(model(ids, lengths, pooled), expected, rtol=1e-4, atol=1e-5)
    if backbone == "encoder":
        return
    # What reading the position from token ids would have given: it is another score on these very texts.
    first_end = (ids == end).int().argmax(1)
    last_other = (ids.shape[1] - 1) - (ids != end).int().flip(1).argmax(1)
    with torch.no_grad():
        hidden = model.hidden(ids, lengths)
        for wrong in (first_end - 1,) if scalar else (first_end - 1, last_other):
            read = model.score(hidden[torch.arange(len(rows)), wrong.clamp_min(0)])
            assert (read - expected).abs().max() > 1e-2


@kinds
def test_a_tokenizer_that_pads_or_cuts_elsewhere_gives_the_same_ids(
    base: str, backbone: str, kind: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(base)
    _, template = reward_model(path, backbone, kind)
    tokenizer = load_tokenizer("tiny", str(path))
    tokenizer.padding_side = tokenizer.truncation_side = "left"
    tokenizer.pad_token = tokenizer.eos_token or tokenizer.sep_token
    tokenizer.backend_tokenizer.enable_padding(length=60, direction="left")
    tokenizer.backend_tokenizer.enable_truncation(7)
    other = Template(
        tokenizer, architecture=backbone, ordinal=kind == "ordinal", max_length=128, pool_prompt=False
    )
    rows = texts(template)
    assert [row.ids for row in other.encode(rows)] == [row.ids for row in template.encode(rows)]
    for row in rows:
        assert other.encode([row]) == template.encode([row])  # nor does it depend on the neighbours


# --- Batches ---


@kinds
def test_scores_do_not_depend_on_who_is_scored_along(
    base: str, backbone: str, kind: str, request: pytest.FixtureRequest
) -> None:
    model, template = reward_model(request.getfixturevalue(base), backbone, kind)
    rows = texts(template)
    expected = [score_responses(model, template, [row], CPU)[0]["score"] for row in rows]
    for size in (3, len(rows)):
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        scored = [row["score"] for part in parts for row in score_responses(model, template, part, CPU)]
        assert scored == pytest.approx(expected, abs=1e-4)
    many = score_responses(model, template, rows[::-1] * 40, CPU)  # more than one micro-batch
    assert [row["score"] for row in many[: len(rows)]][::-1] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("base", "method"), [("tiny_encoder", "bt"), ("tiny_lm", "bt"), ("tiny_lm", "oprm")])
def test_losses_and_metrics_do_not_depend_on_micro_batches(
    base: str,
    method: str,
    request: pytest.FixtureRequest,
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Averaging micro-batch means would weigh short ones more. With rates of 0 all runs hold the same weights."""
    losses: list[float] = []
    say = Progress.say

    def heard(self: Any, *given: Any, **values: Any) -> None:
        losses.extend([values["loss"]] if "loss" in values else [])
        say(self, *given, **values)

    monkeypatch.setattr(Progress, "say", heard)  # the file leaves out steps that come in quick succession
    found = []
    for tokens in (40, 150, 100_000):
        losses.clear()
        run = make_run(
            request.getfixturevalue(base),
            method,
            name=str(tokens),
            micro_batch_tokens=tokens,
            epochs=1,
            learning_rate=0.0,
            head_learning_rate=0.0,
        )
        metrics = train(run)
        scores = [row["score"] for row in pq.read_table(run / "predictions.parquet").to_pylist()]
        pairs = metrics["held_out"]["pairs"]
        assert losses
        dropout = base == "tiny_encoder"  # drawn per micro-batch
        found.append([*scores, *(pairs[name]["value"] for name in ("accuracy", "nll", "brier"))])
        found[-1] += [] if dropout else losses
    assert found[0] == pytest.approx(found[2], abs=1e-5)
    assert found[1] == pytest.approx(found[2], abs=1e-5)


# --- LoRA and the new head ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "kind"), [("bt", "scalar"), ("oprm", "ordinal")], ids=["head", "no new head"]
)
def test_a_lora_model_saved_and_loaded_by_a_fresh_process_scores_the_same(
    method: str, kind: str, tiny_lm: Path, tmp_path: Path
) -> None:
    """peft forgets a head that isn't named in modules_to_save; here adapters and head move, and both must arrive."""
    model, template = reward_model(tiny_lm, "causal", kind)
    rows = texts(template)
    start = alone(model, template.encode(rows))
    model.add_lora(RunConfig(lora_rank=4))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    assert model.head is None or all(parameter.requires_grad for parameter in model.head.parameters())
    model.eval()
    adapted = alone(model, template.encode(rows))
    assert (adapted - start).abs().max() > 0.1
    base = Source(str(tiny_lm))
    record = describe_base("folder:tiny", base, "float32")
    save_model(
        tmp_path / "model", model, template, method=method, partition=(3, 6), base_model="tiny", base=record
    )
    link_base(tmp_path, base)
    with safe_open(tmp_path / "model" / "adapter_model.safetensors", "pt") as saved:
        assert all("lora_" in name for name in saved.keys())  # noqa: SIM118
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "workers.rewards.score",
            str(tmp_path / "model"),
            str(tmp_path / "texts.jsonl"),
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    got = [json.loads(line) for line in done.stdout.splitlines()]
    expected = adapted.double()
    if kind == "ordinal":
        p = torch.softmax(expected, 1)
        assert torch.tensor([row["p"] for row in got]) == pytest.approx(p.float(), abs=1e-5)
        expected = p @ torch.arange(1.0, 10.0, dtype=torch.float64)
    assert [row["score"] for row in got] == pytest.approx(expected.tolist(), abs=1e-4)


# --- Truncation ---


@pytest.mark.parametrize(("base", "method"), [("tiny_encoder", "bt"), ("tiny_lm", "oprm")])
def test_truncation_is_counted_drops_nothing_and_keeps_the_responses_ends(
    base: str, method: str, request: pytest.FixtureRequest, make_run: MakeRun, rows: Any
) -> None:
    responses = [
        row | {"text": WATER * 60 + row["text"]} if row["response_id"].endswith("-good") else row
        for row in rows[0]
    ]
    run = make_run(request.getfixturevalue(base), method, responses=responses, max_length=96, epochs=1)
    metrics = train(run)
    predicted = pq.read_table(run / "predictions.parquet").to_pylist()
    assert metrics["training"]["truncated"] == 12
    assert [row["response_id"] for row in predicted if row["truncated"]] == [f"{n}-good" for n in range(12)]
    assert metrics["training"]["judgements"] == 60  # a pair with a long response is still a pair
    assert not metrics["training"]["dropped"]

    model, template, _ = load_model(run / "model")
    (long,) = template.encode([responses[0]])
    (other_middle, other_end) = template.encode(
        [
            responses[0]
            | {"text": f"{WATER * 40}no idea {WATER * 20}" + responses[0]["text"].removeprefix(WATER * 60)},
            responses[0] | {"text": responses[0]["text"] + " no idea"},
        ]
    )
    mark = template.encode([{"messages": [], "text": "[...]"}])[0]
    assert template.tokenizer.decode(mark.ids[mark.start : mark.stop - 1]).strip(" ") in (
        template.tokenizer.decode(long.ids[long.start :])
    )
    assert len(long) == 96
    assert long.ids == other_middle.ids  # what was cut can't matter
    assert long.ids != other_end.ids  # the end always does
    scores = alone(model, [long, other_end])
    assert (scores[0] - scores[1]).abs().max() > 0


# --- Splits ---


def test_a_split_never_puts_a_prompt_on_both_sides(make_run: MakeRun, rows: Any) -> None:
    """Over many seeds and three ways of grouping; judgements across the split are dropped and counted."""
    judged = [
        *rows[1],
        {"response_a": "0-good", "response_b": "1-bad", "verdict": "a"},
        {"response_a": "2-good", "response_b": "3-bad", "verdict": "a"},
    ]
    for groups in (12, 6, 2):
        responses = [row | {"group": f"g{int(row['prompt_id'][1:]) % groups}"} for row in rows[0]]
        run = make_run("x", "oprm", name=str(groups), responses=responses, judgements=judged)
        snapshot = read_snapshot(run / "snapshot")
        for seed in range(25):
            config = RunConfig(method="oprm", seed=seed)
            split = split_groups(snapshot, config)
            data = training_data(snapshot, split, config)
            measured = held_out_rows(snapshot, split)
            trained = [snapshot.responses[number] for number in data.trained_on]
            for key in ("prompt_id", "response_id", *(["group"] if split.unit == "group" else [])):
                assert {row[key] for row in trained}.isdisjoint(row[key] for row in measured.responses)
            used = len(data.first) + data.dropped["crosses_split"] + len(measured.judgements)
            assert used == len(judged)


def test_a_prompt_in_two_groups_is_refused(make_run: MakeRun, rows: Any) -> None:
    responses = [row | {"group": row["response_id"]} for row in rows[0]]
    run = make_run("x", "bt", responses=responses)
    with pytest.raises(Refused, match="row 1: prompt_id 'p0' stands in the groups '0-good' and '0-normal'"):
        read_snapshot(run / "snapshot")


@pytest.mark.parametrize("leak", ["labels", "prompt"])
def test_a_split_that_leaks_stops_the_run(
    leak: str, make_run: MakeRun, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def everything(snapshot: Snapshot, split: Split) -> Snapshot:
        if leak == "labels":
            return snapshot
        measured = held_out_rows(snapshot, split)
        trained = next(row for row in snapshot.responses if not split.is_held_out(row))
        stranger = trained | {"response_id": "new"}
        return Snapshot([*measured.responses, stranger], measured.judgements, measured.levels)

    monkeypatch.setattr(finishing, "held_out_rows", everything)
    with pytest.raises(AssertionError, match="measured"):
        train(make_run(tiny_encoder, "bt", epochs=1))
