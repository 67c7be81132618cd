"""Copies of responses in training: what they say, where they may stand, and that they change nothing else."""

import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from workers.rewards.config import ResolvedConfig, RunConfig
from workers.rewards.data.judgements import TrainingData, training_data
from workers.rewards.data.snapshot import Snapshot, read_snapshot
from workers.rewards.data.split import split_groups
from workers.rewards.evaluation.attacks import ATTACKS, DEGENERATE, OTHER_WORDS, Own
from workers.rewards.models.load import load_tokenizer
from workers.rewards.objectives.outcomes import MAX_STRENGTH, WIN
from workers.rewards.text.sections import Template
from workers.rewards.training.batches import Blocks
from workers.rewards.training.hardening import (
    EVERY,
    GRAMMAR,
    MOST,
    SETS,
    WINNER,
    Copy,
    attacked,
    copies_of,
    degenerate,
    drawn,
    harden,
    joined,
)
from workers.rewards.training.loop import train

MakeRun = Callable[..., Path]
ASKED = [{"role": "user", "content": "how do i keep plants alive? please say."}]
NOBODY = -1


def prepared(folder: Path, **keys: Any) -> tuple[Snapshot, TrainingData, ResolvedConfig]:
    config = RunConfig.read(folder / "config.json")
    snapshot = read_snapshot(folder / "snapshot")
    data = training_data(snapshot, split_groups(snapshot, config), config)
    return snapshot, data, replace(config.resolved("encoder", 32), **keys)


def hardened(
    snapshot: Snapshot, data: TrainingData, config: ResolvedConfig, base: Path, max_length: int = 128
) -> tuple[list[Copy], TrainingData]:
    tokenizer = load_tokenizer("tiny", str(base))
    template = Template(tokenizer, architecture="encoder", ordinal=config.ordinal, max_length=max_length)
    read = template.encode(snapshot.responses)
    copies, encoded, after = harden(snapshot.responses, read, data, template.encode, config)
    assert [row.ids for row in encoded] == [row.ids for row in template.encode([copy.row for copy in copies])]
    assert all(row.ids != read[copy.of].ids for copy, row in zip(copies, encoded, strict=True))
    return copies, after


def test_an_attack_keeps_the_text_and_none_is_the_suites() -> None:
    suite = {attack.change("", Own(), 0).strip() for attack in ATTACKS} | {
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
    named = {"addition", "opener", "constant", "word"}
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


@pytest.mark.parametrize("method", ["bt", "rgft"])
def test_a_copy_takes_its_responses_place(method: str, make_run: MakeRun, tiny_encoder: Path) -> None:
    folder = make_run(tiny_encoder, method, hardening=0.5, level_terms="all")
    snapshot, before, config = prepared(folder)
    copies, after = hardened(snapshot, before, config, tiny_encoder)
    count, old, whole = len(snapshot.responses), len(before.first), len(snapshot.responses) + len(copies)
    assert [copy.set for copy in copies].count(EVERY) == 30  # 32 wanted
    assert after.trained_on == before.trained_on | set(range(count, whole))
    for name in ("first", "second", "outcome", "strength", "level", "weight", "annotator", "level_value"):
        assert torch.equal(getattr(after, name)[: len(getattr(before, name))], getattr(before, name))
    assert after.annotator[old:].unique().tolist() == [NOBODY]

    def rows(data: TrainingData) -> list[tuple[float, ...]]:
        columns = (data.first, data.second, data.outcome, data.strength, data.weight)
        return list(zip(*(column.tolist() for column in columns), strict=True))

    levels = list(zip(before.level_response.tolist(), before.level_value.tolist(), strict=True))
    expected, expected_levels = [], []
    for index, copy in enumerate(copies, start=count):
        if copy.set == EVERY:  # 60 judgements of 30 responses, half of them copied
            usual = 2 * MOST / 0.5
            expected.append((copy.of, index, WIN, MAX_STRENGTH, pytest.approx(usual)))
            expected_levels += [(index, 0)] * (round(usual) if config.ordinal or levels else 0)
            continue
        for first, second, outcome, strength, weight in rows(before):
            weight *= MOST / 0.5 / 2
            if first == copy.of:
                expected.append((index, second, outcome, strength, pytest.approx(weight * WINNER)))
            elif second == copy.of:
                expected.append((first, index, outcome, strength, pytest.approx(weight)))
        expected_levels += [(index, value) for response, value in levels if response == copy.of]
    assert sorted(rows(after)[old:], key=lambda row: row[:2]) == sorted(expected, key=lambda row: row[:2])
    found = list(zip(after.level_response.tolist(), after.level_value.tolist(), strict=True))[len(levels) :]
    assert sorted(found) == sorted(expected_levels)
    known = [0 if copy.set == EVERY else int(before.level[copy.of]) for copy in copies]
    assert after.level[count:].tolist() == known


def test_an_empty_response_has_no_degenerate_rival(make_run: MakeRun, tiny_encoder: Path, rows: Any) -> None:
    responses = [
        {**row, "text": "" if row["response_id"].endswith("bad") else row["text"]} for row in rows[0]
    ]
    folder = make_run(tiny_encoder, "bt", responses=responses, hardening=0.5, epochs=1)
    snapshot, data, config = prepared(folder)
    copies = copies_of(snapshot.responses, data.trained_on, config)
    assert [copy.set for copy in copies] == [0] * 15 + [EVERY] * 20
    assert all(snapshot.responses[copy.of]["text"] for copy in copies[15:])


def test_a_copy_that_reads_like_its_response_stays_out(
    make_run: MakeRun, tiny_encoder: Path, rows: Any
) -> None:
    """What is added in the middle of a long response, or beyond the tiny vocabulary, is not read."""
    responses = [{**row, "text": f"{row['text']}. " * 30} for row in rows[0]]
    snapshot, data, config = prepared(make_run(tiny_encoder, "bt", responses=responses, hardening=1.0))
    made = copies_of(snapshot.responses, data.trained_on, config)
    copies, after = hardened(snapshot, data, config, tiny_encoder, max_length=32)
    assert len(copies) < len(made)
    assert len(after.level) == len(responses) + len(copies)


def test_an_epoch_has_one_set_and_the_steps_of_an_unhardened_run(
    make_run: MakeRun, tiny_encoder: Path
) -> None:
    folder = make_run(tiny_encoder, "rgft", level_terms="all", hardening=0.7)
    snapshot, before, config = prepared(folder)
    copies, data = hardened(snapshot, before, config, tiny_encoder)
    pairs = list(zip(before.first.tolist(), before.second.tolist(), strict=True))
    blocks = Blocks(pairs, before.level_response.tolist(), [5] * len(snapshot.responses), 40)
    count, people = len(snapshot.responses), len(before.first)
    for epoch in range(SETS):
        plain = blocks.epoch(0, epoch)
        steps = joined(plain, copies, data, epoch)
        for step, bare in zip(steps, plain, strict=True):
            assert [number for number in step.responses if number < count] == bare.responses
            assert [row for row in step.judgements if row < people] == bare.judgements
            assert [row for row in step.levels if row < len(before.level_response)] == bare.levels
            inside = set(step.responses)
            assert all({int(data.first[row]), int(data.second[row])} <= inside for row in step.judgements)
            assert all(int(data.level_response[row]) in inside for row in step.levels)
        mine = {index for index, copy in enumerate(copies, start=count) if copy.set in (EVERY, epoch)}
        sides = torch.maximum(data.first, data.second).tolist()
        rows = sorted(row for step in steps for row in step.judgements if row >= people)
        assert rows == [row for row in range(people, len(sides)) if sides[row] in mine]
        levels = sorted(row for step in steps for row in step.levels)
        assert levels == [
            row for row, of in enumerate(data.level_response.tolist()) if of < count or of in mine
        ]


def test_the_draw_depends_on_seed_and_name_alone(make_run: MakeRun, tiny_encoder: Path) -> None:
    snapshot, data, config = prepared(make_run(tiny_encoder, "bt"))

    def copies(share: float, seed: int) -> list[Copy]:
        return copies_of(snapshot.responses, data.trained_on, replace(config, hardening=share, seed=seed))

    one, again, more, other = copies(0.3, 0), copies(0.3, 0), copies(0.6, 0), copies(0.3, 1)
    assert one == again
    assert one != other
    attacks = [copy for copy in one if copy.set != EVERY]
    assert len(attacks) == 9 * SETS
    assert all(copy in more for copy in attacks)


@pytest.mark.parametrize(
    ("base", "method", "tuning"),
    [("tiny_encoder", "clf", "tuned"), ("tiny_encoder", "bt", "frozen"), ("tiny_lm", "haf", "tuned")],
)
def test_a_hardened_run_reports_real_counts_and_predicts_real_responses(
    base: str, method: str, tuning: str, request: pytest.FixtureRequest, make_run: MakeRun
) -> None:
    folder = make_run(request.getfixturevalue(base), method, hardening=0.5, tuning=tuning)
    metrics = train(folder)
    assert 30 < metrics["training"]["hardening_copies"] <= 15 * SETS + 30
    assert metrics["training"]["judgements"] == 60
    assert metrics["training"]["responses"] == 30
    assert metrics["training"]["levels"] == 30
    predicted = pq.read_table(folder / "predictions.parquet").to_pylist()
    assert len(predicted) == 36
    assert [row["split"] for row in predicted].count("crossfit" if tuning == "frozen" else "train") == 30
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
