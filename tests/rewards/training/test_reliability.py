"""Annotator reliability: exact gradient, error rates recovered, better rewards, the same after a resume."""

import dataclasses
import itertools
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rewards.training.test_resume import StopAfter
from workers.rewards import objectives as o
from workers.rewards.config import RunConfig
from workers.rewards.data.judgements import TrainingData, training_data
from workers.rewards.data.snapshot import read_snapshot
from workers.rewards.data.split import Split
from workers.rewards.models.load import load_backbone, load_tokenizer
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.scale import UNKNOWN, Partition
from workers.rewards.text.sections import Template, collate
from workers.rewards.training.batches import Step
from workers.rewards.training.loop import train
from workers.rewards.training.progress import Stopped
from workers.rewards.training.reliability import LEFT, NO_SIDE, RIGHT, Reliability

MakeRun = Callable[..., Path]
Rows = list[dict[str, Any]]


def judged(
    outcome: list[int], annotator: list[int], first_left: list[int] | None = None, weight: Any = None
) -> TrainingData:
    """Judgements of pair (0, 1), as far as reliability reads them."""
    count, none = len(outcome), torch.zeros(0, dtype=torch.int64)
    return TrainingData(
        first=torch.zeros(count, dtype=torch.int64),
        second=torch.ones(count, dtype=torch.int64),
        outcome=torch.tensor(outcome),
        strength=torch.ones(count, dtype=torch.int64),
        level=torch.full((2,), UNKNOWN),
        level_response=none,
        level_value=none,
        annotator=torch.tensor(annotator),
        annotators=[f"u{number}" for number in range(max(annotator) + 1)],
        first_left=torch.tensor(first_left or [-1] * count),
        weight=torch.ones(count) if weight is None else torch.tensor(weight),
    )


# --- The gradient ---


def test_the_weighted_gradient_is_that_of_the_joint_likelihood() -> None:
    """d/dtheta of -log[(1 - e) P(v) + e base(v)] = (1 - gamma) d/dtheta of -log P(v), for every verdict."""
    generator = torch.Generator().manual_seed(1)
    outcome = [o.WIN, o.WIN, o.TIE, o.BOTH_BAD, o.WIN]
    data = judged(outcome, [0, 1, 1, 0, 2], [1, 0, -1, -1, -1])
    inputs = [torch.randn(5, dtype=torch.float64, generator=generator) for _ in range(2)]
    inputs += [torch.tensor(0.5, dtype=torch.float64), torch.tensor(-0.3, dtype=torch.float64)]
    for value in inputs:
        value.requires_grad_()

    def terms() -> torch.Tensor:
        return o.bt_terms(inputs[0], inputs[1], data.outcome, tie=inputs[2], bad_threshold=inputs[3])

    reliability = Reliability(data)
    rows = torch.arange(5)
    weight = reliability.trust(rows, -terms())
    weighted = torch.autograd.grad((weight.double() * terms()).sum(), inputs)
    error, base = reliability.error[data.annotator], reliability.base().flatten()[reliability.cell]
    assert error.unique().numel() > 1
    joint = -torch.log((1 - error) * torch.exp(-terms()) + error * base)
    for got, expected in zip(weighted, torch.autograd.grad(joint.sum(), inputs), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)  # the weights are fp32
    torch.testing.assert_close(terms() - reliability.relief(rows), joint, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["bt", "oprm"])
def test_a_steps_gradient_is_that_of_the_joint_likelihood(
    method: str, make_run: MakeRun, step_loss: Callable[..., Any], tiny_encoder: Path, rows: Any
) -> None:
    """The network's own gradient, with ties, both bad, sides and weights: mean of -log P(v | u) over a step."""
    verdicts = ["a", "b", "tie", "a", "both_bad"]
    judgements = [
        {**row, "verdict": verdicts[n % 5], "left": "ab"[n % 2], "weight": 1 + n % 3, "strength": None}
        for n, row in enumerate(rows[1])
    ]
    config = RunConfig.from_dict({"method": method, "centring": 0.0, "smoothness": 0.0}).resolved(
        "encoder", 32
    )
    snapshot = read_snapshot(make_run(tiny_encoder, method, judgements=judgements) / "snapshot")
    data = training_data(snapshot, Split(frozenset(), "none"), config)
    template = Template(
        load_tokenizer("tiny", str(tiny_encoder)),
        architecture="encoder",
        ordinal=config.ordinal,
        max_length=64,
    )
    encoded = template.encode(snapshot.responses)
    backbone = load_backbone("tiny", str(tiny_encoder), "encoder")
    model = RewardModel(backbone, architecture="encoder", kind=config.kind)
    model.add_thresholds(ties=method == "bt", both_bad=method == "bt")
    model = model.double().eval()
    reliability = Reliability(data, sides_only=config.ordinal)
    step = Step(list(range(len(encoded))), list(range(len(data.first))), [])
    value = step_loss(model, config, data, encoded, reliability)(step)
    value.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    scores = model(*collate(encoded, torch.device("cpu")))
    if method == "bt":
        learnt = {"tie": model.tie, "bad_threshold": model.bad_threshold}
        terms = o.bt_terms(scores[data.first], scores[data.second], data.outcome, **learnt)
    else:
        below = o.region_mask(Partition(), "none", UNKNOWN, UNKNOWN)
        log_p = o.log_ratings(scores)
        bad = Partition().masks()[0]
        terms = o.oprm_terms(log_p[data.first], log_p[data.second], data.outcome, below, bad)
    error, base = reliability.error[data.annotator], reliability.base().flatten()[reliability.cell]
    joint = -torch.log((1 - error) * torch.exp(-terms) + error * base)
    if method == "oprm":  # who takes a side is the model's to say, which side the annotator's too
        sides = log_p[data.first], log_p[data.second]
        win, loss = o.log_mass(*sides, below).exp(), o.log_mass(*sides, below.T).exp()
        tie = 1 - win - loss
        side = (1 - tie) * ((1 - error) * win / (win + loss) + error * base)
        joint = torch.where(data.outcome == o.WIN, -torch.log(side), terms)
        compared = data.outcome != o.BOTH_BAD  # whoever compares has seen that not both are bad
        joint = joint - compared * o.log_not_both_bad(log_p[data.first], log_p[data.second], bad)
    (data.weight * joint).sum().backward()
    assert value.item() == pytest.approx((data.weight * joint).sum().item(), rel=1e-5)
    assert len(found) > 10
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-5, atol=1e-8)


def test_honest_ties_make_nobody_careless() -> None:
    """An ordinal model gives a tie a ninth at first; people who say it three times in ten are not careless for that."""
    data = judged([o.WIN, o.TIE, o.WIN, o.WIN, o.TIE] * 20, [0, 1] * 50, [1, 0] * 50)
    reliability = Reliability(data, sides_only=True)
    told = torch.where(data.outcome == o.WIN, torch.tensor(0.9).log(), torch.nan)
    for _ in range(4):
        weight = reliability.trust(torch.arange(100), told)
    assert reliability.error.max() < 0.1
    torch.testing.assert_close(weight[data.outcome == o.TIE], torch.ones(40))
    assert reliability.report()["base"] == {"a_left": 0.5, "a_right": 0.5, "tie": None, "both_bad": None}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_base_is_a_distribution_over_the_verdicts(seed: int) -> None:
    rng = random.Random(seed)
    outcome = [rng.choice([o.WIN, o.TIE, o.BOTH_BAD]) for _ in range(30)] + [o.WIN, o.WIN, o.TIE, o.BOTH_BAD]
    count = len(outcome)
    left = [rng.choice([0, 1]) for _ in range(30)] + [1, 0, 1, 1]
    data = judged(outcome, [rng.randrange(3) for _ in range(30)] + [2] * 4, left)
    reliability = Reliability(data)
    reliability.trust(torch.arange(count), torch.tensor([-rng.random() * 3 for _ in outcome]))
    base = reliability.base()
    torch.testing.assert_close(base.sum(1) - base[:, NO_SIDE], torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(base[:, LEFT] + base[:, RIGHT], 2 * base[:, NO_SIDE])
    assert ((reliability.error > 0) & (reliability.error < 1)).all()


# --- What EM finds when the model is right ---


def crowd(
    seed: int, people: int, each: int, careless: dict[int, float], accuracy: float = 0.9
) -> tuple[TrainingData, torch.Tensor]:
    """`careless`: annotator -> how often a click falls left; all others are right in a share `accuracy`."""
    rng = random.Random(seed)
    annotator, first_left, log_p = [], [], []
    for person in range(people):
        for _ in range(each):
            better_left = rng.random() < 0.5
            if person in careless:
                clicked_left = rng.random() < careless[person]
                right = clicked_left == better_left
            else:
                right = rng.random() < accuracy
                clicked_left = right == better_left
            annotator.append(person)
            first_left.append(int(clicked_left))
            log_p.append(accuracy if right else 1 - accuracy)
    return judged([o.WIN] * len(annotator), annotator, first_left), torch.tensor(log_p).log()


def test_error_rates_and_sides_are_recovered() -> None:
    data, log_p = crowd(0, 20, 100, {0: 0.5, 1: 0.5, 2: 1.0, 3: 0.1})
    reliability = Reliability(data)
    for chunk in torch.arange(len(log_p)).split(50):  # as steps do; three epochs
        reliability.trust(chunk, log_p[chunk])
    for _ in range(2):
        for chunk in torch.arange(len(log_p)).split(50):
            reliability.trust(chunk, log_p[chunk])
    report = {row["annotator"]: row for row in reliability.report()["annotators"]}
    careless = [report[f"u{number}"]["error_rate"] for number in range(4)]
    honest = [report[f"u{number}"]["error_rate"] for number in range(4, 20)]
    assert min(careless) > 0.5
    assert max(honest) < 0.2
    assert report["u2"]["left_share"] > 0.9
    assert report["u3"]["left_share"] < 0.2


def test_without_sides_a_and_b_are_even_and_no_share_is_reported() -> None:
    data, log_p = crowd(1, 4, 40, {0: 1.0})
    data = dataclasses.replace(data, first_left=torch.full_like(data.first_left, -1))
    reliability = Reliability(data)
    reliability.trust(torch.arange(len(log_p)), log_p)
    base = reliability.base().flatten()[reliability.cell]
    torch.testing.assert_close(base, torch.full_like(base, 0.5))
    assert {row["left_share"] for row in reliability.report()["annotators"]} == {None}


def test_a_model_that_knows_nothing_leaves_the_prior_alone() -> None:
    data = judged([o.WIN] * 40, [0, 1] * 20, [1, 0, 0, 1] * 10)
    reliability = Reliability(data)
    even = torch.full((40,), 0.5).log()
    for _ in range(5):
        weight = reliability.trust(torch.arange(40), even)
    torch.testing.assert_close(weight, torch.full((40,), 0.9), rtol=0, atol=0.01)


def test_a_verdict_the_model_does_not_speak_of_teaches_nothing() -> None:
    data = judged([o.WIN, o.TIE] * 20, [0, 1] * 20)
    reliability = Reliability(data)
    log_p = torch.tensor([-0.1, torch.nan] * 20)
    weight = reliability.trust(torch.arange(40), log_p)
    assert reliability.error[1].item() == pytest.approx(0.1)
    torch.testing.assert_close(weight[1::2], torch.full((20,), 0.9))


def test_a_row_of_weight_three_is_three_rows() -> None:
    outcome, people, p = [o.WIN, o.WIN, o.TIE], [0, 1, 1], [-0.2, -2.0, -1.5]
    heavy = Reliability(judged(outcome, people, weight=[1.0, 3.0, 1.0]))
    heavy.trust(torch.arange(3), torch.tensor(p))
    rows = [0, 1, 1, 1, 2]
    repeated = Reliability(judged([outcome[r] for r in rows], [people[r] for r in rows]))
    repeated.trust(torch.arange(5), torch.tensor([p[r] for r in rows]))
    torch.testing.assert_close(heavy.error, repeated.error)
    torch.testing.assert_close(heavy.shares, repeated.shares)


def test_only_the_first_two_hundred_are_reported_but_all_are_counted() -> None:
    data = judged([o.WIN] * 251, [*range(250), 249])
    report = Reliability(data).report()
    assert len(report["annotators"]) == 200
    assert report["annotators"][0]["annotator"] == "u249"
    assert report["annotator_count"] == 250


# --- Trained with the model ---

WORDS = "water it weekly and give light no idea how do keep plant alive score the 1 2 3 4 5 6 7 8 9".split()  # noqa: SIM905
CARELESS = ("random0", "random1", "random2", "lefty")
PEOPLE = [*CARELESS, *(f"honest{number}" for number in range(16))]
LABELLED, FRESH = 100, 100  # prompts


def noisy_project(seed: int) -> tuple[Rows, Rows, dict[str, float]]:
    """Four answers a prompt, good by the sum of their words' values; three of twenty people judge each pair.

    A fifth is careless: three click anywhere, one always left. The others choose by Bradley-Terry. Prompts beyond
    LABELLED have no judgement. Returns responses, judgements and the true rewards.
    """
    rng = random.Random(seed)
    value = {word: rng.gauss(0, 1) for word in WORDS}
    responses: Rows = []
    judgements: Rows = []
    reward = {}
    for prompt in range(LABELLED + FRESH):
        for answer in range(4):
            name, words = f"{prompt}-{answer}", rng.choices(WORDS, k=5)
            reward[name] = 2 * sum(value[word] for word in words)
            responses.append({"response_id": name, "prompt_id": f"p{prompt}", "text": " ".join(words)})
    for prompt in range(LABELLED):
        for a, b in itertools.combinations([f"{prompt}-{answer}" for answer in range(4)], 2):
            for person in rng.sample(PEOPLE, 3):
                left = rng.choice("ab")
                verdict = "a" if rng.random() < 1 / (1 + math.exp(reward[b] - reward[a])) else "b"
                if person in CARELESS:
                    verdict = left if person == "lefty" else rng.choice("ab")
                judgements.append(
                    {"response_a": a, "response_b": b, "verdict": verdict, "annotator": person, "left": left}
                )
    return responses, judgements, reward


def on_fresh_prompts(folder: Path, reward: dict[str, float]) -> tuple[float, float]:
    """Share of pairs in their true order, and the cross-entropy against the true preference."""
    rows = pq.read_table(folder / "predictions.parquet").to_pylist()
    score = {row["response_id"]: row["score"] for row in rows}
    right, entropy = [], []
    for prompt in range(LABELLED, LABELLED + FRESH):
        for a, b in itertools.combinations([f"{prompt}-{answer}" for answer in range(4)], 2):
            true, guessed = (1 / (1 + math.exp(table[b] - table[a])) for table in (reward, score))
            right.append((true > 0.5) == (guessed > 0.5))
            entropy.append(-true * math.log(guessed) - (1 - true) * math.log(1 - guessed))
    return sum(right) / len(right), sum(entropy) / len(entropy)


@pytest.mark.slow
def test_the_careless_are_found_and_the_rewards_gain(make_run: MakeRun, tiny_encoder: Path) -> None:
    responses, judgements, reward = noisy_project(0)
    settings = {
        "responses": responses, "judgements": judgements, "levels": [],
        "epochs": 15, "learning_rate": 2e-3, "head_learning_rate": 5e-3, "token_budget": 400,
    }  # fmt: skip
    folders = {
        on: make_run(tiny_encoder, "bt", name=str(on), reliability=on, **settings) for on in (True, False)
    }
    metrics = train(folders[True])
    assert train(folders[False])["annotators"] is None
    found = {row["annotator"]: row for row in metrics["annotators"]}
    assert set(found) == set(PEOPLE)
    assert sum(row["judgements"] for row in found.values()) == metrics["training"]["judgements"]
    for name, row in found.items():
        assert (row["error_rate"] > 0.5) if name in CARELESS else (row["error_rate"] < 0.2), row
    assert found["lefty"]["left_share"] > 0.8
    assert sum(metrics["base"].values()) == pytest.approx(1, abs=1e-3)
    with_it, without = (on_fresh_prompts(folders[on], reward) for on in (True, False))
    assert with_it[0] > without[0]
    assert with_it[1] < without[1] - 0.01


def test_one_annotator_is_weighed_against_nobody(make_run: MakeRun, tiny_encoder: Path, rows: Any) -> None:
    """Anonymous votes, and a project of one, train as if reliability were off."""
    judgements = [{**row, "annotator": None} for row in rows[1]]
    made = [
        make_run(tiny_encoder, "bt", name=str(on), judgements=judgements, epochs=1, reliability=on)
        for on in (True, False)
    ]
    first, second = (train(folder) for folder in made)
    assert first["annotators"] is first["base"] is None
    assert first["model_digest"] == second["model_digest"]


def test_a_stopped_run_resumes_its_error_rates(make_run: MakeRun, tiny_encoder: Path, rows: Any) -> None:
    judgements = [{**row, "left": "ab"[number % 2]} for number, row in enumerate(rows[1])]
    straight, broken = (
        make_run(tiny_encoder, "bt", name=name, judgements=judgements) for name in ("one", "two")
    )
    expected = train(straight)
    assert all(row["error_rate"] != 0.1 for row in expected["annotators"])
    for questions in (6, 9):  # asked once while loading, once a step
        with pytest.raises(Stopped):
            train(broken, StopAfter(questions))
    metrics = train(broken)
    assert metrics["annotators"] == expected["annotators"]
    assert metrics["model_digest"] == expected["model_digest"]
