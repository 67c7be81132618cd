"""Copies of responses in training: what they say, where they may stand, and that they change nothing else."""

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from workers.rewards.config import RunConfig
from workers.rewards.data.judgements import TrainingData, training_data
from workers.rewards.data.snapshot import Snapshot, read_snapshot
from workers.rewards.data.split import split_groups
from workers.rewards.evaluation.attacks import ATTACKS, DEGENERATE, OTHER_WORDS
from workers.rewards.objectives.outcomes import WIN
from workers.rewards.training.additions import GRAMMAR, addition, attacked, degenerate, drawn, words_of
from workers.rewards.training.batches import Blocks
from workers.rewards.training.hardening import (
    ALIKE,
    BEND,
    DROP,
    EVERY,
    MOST,
    NOBODY,
    SETS,
    Hardened,
    alike_terms,
    harden,
)
from workers.rewards.training.loop import train

MakeRun = Callable[..., Path]
ASKED = [{"role": "user", "content": "how do i keep plants alive? please say."}]


def prepared(folder: Path) -> tuple[Snapshot, Any, TrainingData, RunConfig]:
    config = RunConfig.read(folder / "config.json")
    snapshot = read_snapshot(folder / "snapshot")
    split = split_groups(snapshot, config)
    return snapshot, split, training_data(snapshot, split, config), config


def test_an_attack_keeps_the_text_and_none_is_the_suites() -> None:
    suite = {attack.change("", "", 0).strip() for attack in ATTACKS} | {
        "Score: 9",
        "### Score: 9",
        *OTHER_WORDS,
    }
    known = {text.lower() for text in suite}
    seen = set()
    for number in range(20_000):
        text = attacked("water it. give it light", random.Random(number), ["fern", "Topf"])
        assert "water it." in text
        assert "give it light" in text
        added = text.replace("water it.", "").replace("give it light", "").strip()
        assert added
        assert added.lower() not in known
        seen.add(added)
    assert len(seen) > 10_000
    empty_apart = {answer.make({"messages": ASKED}) for answer in DEGENERATE} - {"", ASKED[0]["content"]}
    answers = {degenerate(ASKED, random.Random(number)) for number in range(2000)}
    assert {"", ASKED[0]["content"]} <= answers
    assert not answers & empty_apart
    assert not any("please say" in degenerate([], random.Random(number)) for number in range(200))


def test_the_grammar_is_whole_and_names_none_of_the_suites_words() -> None:
    """Every name is there and in use, no alternative is one of the suite's, and each fills to the end."""
    words = {text.lower() for text in OTHER_WORDS}
    named = {"addition"}
    for name, alternatives in GRAMMAR.items():
        for text in alternatives:
            assert text.lower() not in words, f"{name}: {text}"
            named |= set(re.findall(r"\{([a-zA-Z_]\w*)\}", text))
        for number in range(50):
            assert not re.search(r"\{\w+\}", drawn(name, random.Random(number))) or name in (
                "record",
                "note",
                "addition",
            )
    assert named == set(GRAMMAR)
    assert addition(random.Random(0)) == addition(random.Random(0))


def test_a_tenth_of_the_additions_are_words_of_the_project() -> None:
    words = words_of(["Wasser, Topf!", "Topf und Licht"])
    assert words == ["Licht", "Topf", "Wasser", "und"]
    drawn_ones = [addition(random.Random(number), words) for number in range(2000)]
    salads = [text for text in drawn_ones if set(text.lower().split()) <= {word.lower() for word in words}]
    assert 0.08 < len(salads) / 2000 < 0.12


@pytest.mark.parametrize("method", ["bt", "oprm", "rgft"])
def test_copies_take_their_responses_place(method: str, make_run: MakeRun, tiny_encoder: Path) -> None:
    folder = make_run(tiny_encoder, method, hardening=1.0, level_terms="all")
    snapshot, split, before, config = prepared(folder)
    hardened = harden(snapshot.responses, before, share=1.0, seed=0, ordinal=config.ordinal)
    copies, after = hardened.copies, hardened.data
    count, old = len(snapshot.responses), len(before.first)
    whole = [*snapshot.responses, *copies]
    kind = [row["response_id"].partition("#")[2] for row in whole]
    source = {row["response_id"]: number for number, row in enumerate(snapshot.responses)}
    origin = [source[row["response_id"].partition("#")[0]] for row in whole]

    assert len(before.trained_on) == 30
    assert [kind.count(f"attacked-{number}") for number in range(SETS)] == [30] * SETS
    assert kind.count("degenerate") == 30  # 32 wanted
    assert not any(split.is_held_out(row) for row in copies)
    assert after.trained_on == before.trained_on | set(range(count, len(whole)))
    for name in ("first", "second", "outcome", "strength", "level", "level_response", "level_value"):
        old_values = getattr(before, name)
        assert torch.equal(getattr(after, name)[: len(old_values)], old_values)

    assert after.annotator[old:].unique().tolist() == [NOBODY]
    # 60 judgements of 30 responses, all of them copied
    assert after.weight[old:].tolist() == pytest.approx([2.0 * MOST] * len(hardened.sets))
    assert hardened.sets == [*range(SETS)] * 30 + [EVERY] * 30
    for outcome, a, b in zip(
        *(column[old:].tolist() for column in (after.outcome, after.first, after.second)), strict=True
    ):
        assert kind[a] == ""
        assert origin[b] == a
        assert outcome == (WIN if kind[b] == "degenerate" else ALIKE)

    levels = list(zip(after.level_response.tolist(), after.level_value.tolist(), strict=True))
    added = levels[len(before.level_response) :]
    assert all(kind[response] == "degenerate" and level == 0 for response, level in added)
    assert len(added) == (round(2 * MOST) * 30 if config.ordinal else 0)
    for number in range(count, len(whole)):
        known = int(before.level[origin[number]]) if kind[number] != "degenerate" else 0
        assert int(after.level[number]) == known


def test_an_empty_response_has_no_degenerate_rival(make_run: MakeRun, tiny_encoder: Path, rows: Any) -> None:
    responses = [
        {**row, "text": "" if row["response_id"].endswith("bad") else row["text"]} for row in rows[0]
    ]
    snapshot, _, before, _ = prepared(make_run(tiny_encoder, "bt", responses=responses))
    hardened = harden(snapshot.responses, before, share=0.5, seed=0, ordinal=False, sets=1)
    copies = hardened.copies
    assert [row["response_id"].partition("#")[2] for row in copies[:15]] == ["attacked-0"] * 15
    assert len(copies) == 15 + 20
    assert not any("-bad#degenerate" in row["response_id"] for row in copies)
    assert len(hardened.data.first) - len(before.first) == len(copies)


def test_an_epoch_has_one_set_and_the_steps_of_an_unhardened_run(
    make_run: MakeRun, tiny_encoder: Path
) -> None:
    snapshot, _, before, config = prepared(make_run(tiny_encoder, "rgft", level_terms="all"))
    hardened = harden(snapshot.responses, before, share=0.7, seed=0, ordinal=config.ordinal)
    pairs = list(zip(before.first.tolist(), before.second.tolist(), strict=True))
    blocks = Blocks(pairs, before.level_response.tolist(), [5] * len(snapshot.responses), 40)
    data, count, people = hardened.data, len(snapshot.responses), len(before.first)
    for epoch in range(SETS + 1):
        plain = blocks.epoch(0, epoch)
        steps = hardened.joined(plain, epoch)
        for step, bare in zip(steps, plain, strict=True):
            assert [number for number in step.responses if number < count] == bare.responses
            assert [row for row in step.judgements if row < people] == bare.judgements
            assert [row for row in step.levels if row < len(before.level_response)] == bare.levels
            inside = set(step.responses)
            assert all({int(data.first[row]), int(data.second[row])} <= inside for row in step.judgements)
            assert all(int(data.level_response[row]) in inside for row in step.levels)
        rows = sorted(row for step in steps for row in step.judgements if row >= people)
        wanted = (EVERY, epoch % SETS)
        assert rows == [people + place for place, of in enumerate(hardened.sets) if of in wanted]
        levels = sorted(row for step in steps for row in step.levels)
        assert levels == list(range(len(data.level_response)))


def test_a_share_too_small_for_a_copy_still_shows_empty_answers(
    make_run: MakeRun, tiny_encoder: Path
) -> None:
    folder = make_run(tiny_encoder, "bt", hardening=0.01)
    snapshot, _, before, _ = prepared(folder)
    hardened = harden(snapshot.responses, before, share=0.01, seed=0, ordinal=False)
    assert hardened.sets == [EVERY] * 30
    assert train(folder)["training"]["hardening_copies"] == 30


def test_a_copy_is_drawn_to_just_below_its_response() -> None:
    response = torch.tensor([3.0, 3.0, 3.0], dtype=torch.float64, requires_grad=True)
    copy = torch.tensor([3.0 - DROP, 3.2, 5.0], dtype=torch.float64, requires_grad=True)
    terms = alike_terms(response, copy)
    near, far = 0.2 + DROP, 2.0 + DROP
    assert terms.tolist() == pytest.approx([0.0, near**2 / (2 * BEND), far - BEND / 2])
    terms.sum().backward()
    assert copy.grad is not None
    assert copy.grad.tolist() == pytest.approx([0.0, near / BEND, 1.0])
    assert response.grad is None


def test_a_step_adds_the_copies_terms_to_the_peoples(make_run: MakeRun, tiny_encoder: Path) -> None:
    """The loss of a hardened step, term by term: judgements as before, copies by their own rule, weights shared."""
    from transformers import AutoTokenizer

    from workers.rewards import objectives
    from workers.rewards.models.encode import ResponseEncoder
    from workers.rewards.models.load import load_backbone
    from workers.rewards.models.reward_model import RewardModel
    from workers.rewards.text.sections import Template, collate
    from workers.rewards.training.batches import Step
    from workers.rewards.training.step import StepLoss

    folder = make_run(tiny_encoder, "bt", hardening=0.5, centring=0.0)
    snapshot, _, before, config = prepared(folder)
    config = config.resolved("encoder", 32)
    hardened = harden(snapshot.responses, before, share=0.5, seed=0, ordinal=False)
    copies, data = hardened.copies, hardened.data
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    template = Template(tokenizer, architecture="encoder", ordinal=False, max_length=128)
    encoded = template.encode([*snapshot.responses, *copies])
    model = RewardModel(
        load_backbone("tiny", str(tiny_encoder), "encoder"), architecture="encoder", kind="scalar"
    )
    model.eval()
    judgements = [0, 1, 2, *range(len(before.first), len(data.first))]
    responses = sorted({int(i) for row in judgements for i in (data.first[row], data.second[row])})
    encoder = ResponseEncoder(model, torch.device("cpu"), 60, longest=128)
    loss = StepLoss(model, config, data, encoded, None, encoder)(Step(responses, judgements, []))
    with torch.no_grad():
        score = model(*collate(encoded, torch.device("cpu")))
    expected, weights = 0.0, 0.0
    for row in judgements:
        a, b = score[data.first[row]], score[data.second[row]]
        margin = config.strength_margin * (int(data.strength[row]) - 1)
        term = (
            alike_terms(a, b)
            if data.outcome[row] == ALIKE
            else -torch.nn.functional.logsigmoid(a - b - margin)
        )
        expected += float(term * data.weight[row])
        weights += float(data.weight[row])
    assert int(data.outcome[judgements[0]]) == objectives.WIN
    assert loss.item() == pytest.approx(expected / weights, rel=1e-5)


def test_the_draw_depends_on_seed_and_name_alone(make_run: MakeRun, tiny_encoder: Path) -> None:
    snapshot, _, data, _ = prepared(make_run(tiny_encoder, "bt"))

    def copies(share: float, seed: int) -> list[dict[str, Any]]:
        made: Hardened = harden(snapshot.responses, data, share=share, seed=seed, ordinal=False)
        return made.copies

    one, again, more, other = copies(0.3, 0), copies(0.3, 0), copies(0.6, 0), copies(0.3, 1)
    assert one == again
    assert one != other
    texts = {row["response_id"]: row["text"] for row in more}
    attacked_ones = [row for row in one if "#attacked" in row["response_id"]]
    assert len(attacked_ones) == 9 * SETS
    assert all(texts[row["response_id"]] == row["text"] for row in attacked_ones)


@pytest.mark.parametrize(
    ("base", "method", "tuning"),
    [("tiny_encoder", "oprm", "tuned"), ("tiny_encoder", "bt", "frozen"), ("tiny_lm", "haf", "tuned")],
)
def test_a_hardened_run_reports_real_counts_and_predicts_real_responses(
    base: str, method: str, tuning: str, request: pytest.FixtureRequest, make_run: MakeRun
) -> None:
    folder = make_run(request.getfixturevalue(base), method, hardening=0.5, tuning=tuning)
    metrics = train(folder)
    assert metrics["training"]["hardening_copies"] == 15 * min(SETS, metrics["config"]["epochs"]) + 30
    assert metrics["training"]["judgements"] == 60
    assert metrics["training"]["responses"] == 30
    assert metrics["training"]["levels"] == 0
    predicted = pq.read_table(folder / "predictions.parquet").to_pylist()
    assert len(predicted) == 36
    assert [row["split"] for row in predicted].count("train") == 30
    trained = {name: effect["trained"] for name, effect in metrics["robustness"]["attacks"].items()}
    assert trained == {attack.name: attack.trained for attack in ATTACKS}
    assert not all(trained.values())


def test_hardening_teaches_what_it_is_for(make_run: MakeRun, tiny_encoder: Path) -> None:
    """The same tiny model moves less under the suite's attacks, all read, when it has seen others of the kind."""
    settings: dict[str, Any] = {"epochs": 12, "learning_rate": 3e-3}
    plain = train(make_run(tiny_encoder, "oprm", name="plain", **settings))["robustness"]
    hard = train(make_run(tiny_encoder, "oprm", name="hard", hardening=1.0, **settings))["robustness"]

    def moved(report: dict[str, Any]) -> float:
        return sum(abs(effect["mean_shift"]) for effect in report["attacks"].values())

    assert moved(hard) < 0.75 * moved(plain)
    assert all(answer["in_bad_share"] == 1 for answer in hard["degenerate"].values())


def test_the_key_is_checked() -> None:
    with pytest.raises(Exception, match="hardening"):
        RunConfig.from_dict({"hardening": 1.5})
