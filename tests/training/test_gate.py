"""The gate: a table of cases, what never passes, and the words on the pages."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils.html import strip_tags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from webapp.accounts.models import User
from webapp.corpus.audit import Action
from webapp.corpus.models import AuditEntry, Project
from webapp.jobs import State
from webapp.labels.models import Judgement
from webapp.training.gate import Difference, gate_check
from webapp.training.models import ModelVersion
from webapp.training.same_rows import HeldOut, same_rows
from webapp.training.services import version_promote, version_publish
from workers.rewards.evaluation.metrics import evaluate_run, score_spread

Make = Callable[..., Any]
ROOM = ModelVersion._meta.get_field("gate_reason").max_length or 0


def measured(
    accuracy: float | None = 0.70,
    over: float | None = 0.05,
    *,
    half: float = 0.04,
    interval: bool = True,
    ties: int = 0,
    spread: float = 1.2,
    ratings: int | None = 6,
    loss: tuple[float, float] = (0.69, 0.52),
    base: str = "all-MiniLM-L6-v2",
) -> dict[str, Any]:
    """metrics.json as the trainer writes it; accuracy None: no pair was held out."""

    def cell(value: float) -> dict[str, Any]:
        low, high = (value - half, value + half) if interval else (None, None)
        return {"value": value, "low": low, "high": high, "n": 200}

    pairs = None
    if accuracy is not None and over is not None:
        pairs = {"n": 200, "groups": 20, "accuracy": cell(accuracy), "over_length": cell(over)}
        pairs |= {"length_baseline": cell(accuracy - over), "model_ties": ties}
    return {
        "held_out": {"pairs": pairs, "levels": None},
        "spread": {"value": spread, "n": 400, "ratings": ratings},
        "training": {"loss": {"first": loss[0], "last": loss[1]}},
        "config": {"base_model": base},
    }


def version(metrics: dict[str, Any]) -> ModelVersion:
    return ModelVersion(method="oprm", number=3, metrics=metrics)


LEVELS_ONLY = measured(None) | {"held_out": {"pairs": None, "levels": {"n": 60, "accuracy": 0.5}}}


def on_levels(over: float, gain: float, half: float = 0.03) -> dict[str, Any]:
    """No pair was held out; accuracy and ranked error beside those of always guessing the most common level."""
    cells = {
        name: {"value": value, "low": value - half, "high": value + half, "n": 60}
        for name, value in {"over_constant": over, "rps_gain": gain}.items()
    }
    levels = {
        "n": 60,
        "accuracy": 0.5,
        "constant": {"level": "good", "value": 0.5 - over, "rps": 0.3},
        **cells,
    }
    return measured(None) | {"held_out": {"pairs": None, "levels": levels}}


OLD_TRAINER = {"held_out": {"pairs": {"n": 60, "accuracy": {"value": 0.7, "low": 0.6, "high": 0.8, "n": 60}}}}


@pytest.mark.parametrize(
    ("new", "serving", "same", "passes", "mark", "words"),
    [
        (measured(), None, None, True, "", "better than one half and not below “the longer one wins”"),
        (measured(0.70, -0.03), None, None, True, "", "(-0.030 (-0.070 to +0.010))"),
        # What a first version may fall short of, and no later one beside a better one
        (measured(0.66, -0.06), None, None, True, "below “the longer one wins”", "by -0.060 (-0.100 to -0.020)"),
        (measured(0.66, -0.06), measured(), None, False, "", "on the same pairs, by -0.060"),
        (measured(0.53), None, None, True, "not shown to beat guessing", "0.530 (0.490 to 0.570) is not shown"),
        (measured(0.53), measured(0.52), None, True, "not shown to beat guessing", "0.530 against 0.520"),
        (measured(0.53), measured(), None, False, "", "is not shown to be better than one half"),
        (measured(interval=False), None, None, True, "no interval", "judge pairs of another prompt or group"),
        (measured(interval=False), measured(), None, False, "", "its pairs lie in one group"),
        (measured(None), None, None, True, "not measured", "no label was held out"),
        (measured(None), measured(), None, False, "", "No label was held out"),
        (measured(None), measured(None), None, False, "", "an admin decides"),
        # What never serves by itself
        (measured(0.40), None, None, False, "", "0.400 (0.360 to 0.440) is worse than guessing (0.50)"),
        (measured(spread=0.0001), None, None, False, "", "Collapsed: the scores of 400 responses spread by 0.0001"),
        (measured(None, spread=0.0), None, None, False, "", "Collapsed"),
        (measured(ratings=1), None, None, False, "", "one rating is the most probable one of all 400"),
        (measured(ties=11), None, None, False, "", "one score in 11 of 200 held-out judgements"),
        (measured(ties=10), None, None, True, "", "better than one half"),
        (measured(loss=(0.69, 0.69)), None, None, False, "", "The loss did not fall over training: 0.690 in the"),
        (measured(loss=(0.5, 0.5), base="version:oprm-2"), None, None, True, "", "better than one half"),
        # Beside the serving version
        (measured(), measured(), Difference(-0.04, -0.07, -0.01, 180), False, "", "180 held-out judgements"),
        (measured(), measured(), Difference(-0.04, -0.09, 0.01, 180), True, "", "not clearly worse"),
        (measured(), measured(), Difference(-0.01, -0.015, -0.005, 9000), True, "", "not clearly worse"),
        (measured(), measured(), Difference(-0.04, None, None, 5), False, "", "clearly worse"),
        (measured(0.67), measured(0.70), None, False, "", "more than the allowed 0.020 lower"),
        (measured(0.69), measured(0.70), None, True, "", "each on its own rows: at most 0.020 lower"),
        (measured(0.6, -0.06), measured(0.66, -0.06), Difference(-0.06, -0.08, -0.04, 90), False, "", "clearly"),
        # Levels stand in for pairs
        (LEVELS_ONLY, None, None, True, "", "held-out level accuracy 0.500 is above guessing (0.33)"),
        (LEVELS_ONLY, measured(), None, False, "", "No held-out metric that it shares"),
        (on_levels(0.1, 0.1), None, None, True, "", "is not below always guessing the most common level (+0.100"),
        (on_levels(-0.01, 0.1), None, None, True, "", "and its error is less: -0.100 (-0.130 to -0.070) RPS"),
        (on_levels(-0.1, 0.1), None, None, True, "below guessing", "by -0.100 (-0.130 to -0.070)"),
        (on_levels(0.1, 0.02), None, None, True, "not shown to beat guessing", "-0.020 (-0.050 to +0.010) RPS"),
        (on_levels(-0.1, -0.1), None, None, False, "", "0.500 is worse than always guessing the most common level"),
        # Older metrics.json
        (OLD_TRAINER, None, None, True, "", "Not known: spread of scores, fall of the loss, difference from"),
        ({"held_out": {"levels": {"n": 9, "accuracy": 0.2}}}, None, None, False, "", "worse than guessing (0.33)"),
        ({}, None, None, True, "not measured", "Not known: spread of scores, fall of the loss."),
        ({"method": "judge"}, None, None, True, "not measured", "Not known: spread of scores."),
    ],
)  # fmt: skip
def test_cases(
    new: dict[str, Any],
    serving: dict[str, Any] | None,
    same: Difference | None,
    passes: bool,
    mark: str,
    words: str,
) -> None:
    old = None if serving is None else version(serving)
    word = gate_check(new, serving=old, max_drop=0.02, same_rows=same)
    assert (word.passed, word.mark if word.passed else "") == (passes, mark), word.reason
    assert words in word.reason
    assert len(word.reason) <= ROOM


# --- What never passes ---

VERDICTS = st.sampled_from(["a", "b", "tie", "both_bad"])


def evaluated(verdicts: list[str], scores: dict[str, float], kind: str, p: list[float]) -> dict[str, Any]:
    """metrics.json of a model with these scores on pairs (a0, b0), (a1, b1) ... in three groups."""
    sides = [(f"a{i}", f"b{i}") for i in range(len(verdicts))]
    rows = [
        {"response_id": name, "group": f"g{i % 3}", "text": "x" * (3 * i + (name[0] == "b") + 1)}
        for i, pair in enumerate(sides)
        for name in pair
    ]
    found = evaluate_run(
        responses=rows,
        judgements=[
            {"response_a": a, "response_b": b, "verdict": verdict, "annotator": "ann"}
            for (a, b), verdict in zip(sides, verdicts, strict=True)
        ],
        levels=[],
        scores=scores,
        probs=dict.fromkeys(scores, p) if kind == "ordinal" else None,
        kind=kind,
        tie=None,
        temperature=1.0,
        partition=(3, 6),
        seed=0,
    )
    predicted = [{"score": score, "p": p if kind == "ordinal" else None} for score in scores.values()]
    return {"held_out": found, "spread": score_spread(predicted)}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    verdicts=st.lists(VERDICTS, max_size=12),
    constant=st.floats(-20, 20),
    kind=st.sampled_from(["scalar", "ordinal"]),
    masses=st.lists(st.integers(1, 9), min_size=9, max_size=9),
    beside=st.sampled_from([None, measured(), measured(0.53), measured(None), {}]),
    keeps_spread=st.booleans(),
)
def test_a_constant_model_never_passes(
    verdicts: list[str],
    constant: float,
    kind: str,
    masses: list[int],
    beside: dict[str, Any] | None,
    keeps_spread: bool,
) -> None:
    scores = {f"{side}{i}": constant for side in "ab" for i in range(max(1, len(verdicts)))}
    metrics = evaluated(verdicts, scores, kind, [mass / sum(masses) for mass in masses])
    if not keeps_spread and any(verdict in "ab" for verdict in verdicts):
        del metrics["spread"]  # the ties alone tell it, then
    serving = None if beside is None else version(beside)
    word = gate_check(metrics, serving=serving, max_drop=0.02)
    assert not word.passed, word.reason
    assert len(word.reason) <= ROOM


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    n=st.integers(2, 60),
    share=st.floats(0.06, 1),
    beside=st.sampled_from([None, measured(), measured(0.53)]),
    same=st.sampled_from([None, Difference(0.1, 0.05, 0.15, 50)]),
)
def test_a_model_that_ties_too_often_never_passes(
    n: int, share: float, beside: dict[str, Any] | None, same: Difference | None
) -> None:
    tied = max(1, round(share * n))
    if tied <= 0.05 * n:
        tied += 1
    scores = {f"{side}{i}": float(i >= tied and side == "a") + i for side in "ab" for i in range(n)}
    metrics = evaluated(["a"] * n, scores, "scalar", [])
    assert metrics["held_out"]["pairs"]["model_tie_share"] == {"value": pytest.approx(tied / n), "n": n}
    serving = None if beside is None else version(beside)
    assert not gate_check(metrics, serving=serving, max_drop=0.02, same_rows=same).passed


# --- The same rows ---


@pytest.mark.django_db
def test_two_versions_on_the_same_judgements(
    project: Project, make_prompt: Make, make_version: Make, make_run: Make, annotator: User
) -> None:
    """Ten pairs in five groups: the serving version is right on all, the new one on six of the eight both held out."""
    serving = make_version(project, 1, is_serving=True)
    new: dict[str, float] = {}
    for number in range(10):
        prompt = make_prompt(
            project, f"p{number}", [f"{number} good", f"{number} poor"], group=f"g{number % 5}"
        )
        good, poor = prompt.responses.order_by("pk")
        pair = project.pairs.get(response_a__prompt=prompt)
        verdict = "a" if pair.response_a_id == good.pk else "b"
        Judgement.objects.create(pair=pair, annotator=annotator, verdict=verdict, client_key=f"j{number}")
        split = "train" if number >= 8 else "held_out"
        for response, score in ((good, 7.0), (poor, 3.0)):
            serving.predictions.create(response=response, score=score, percentile=50, split=split)
        new |= {good.external_id: float(number >= 2), poor.external_id: 0.5}
    found = same_rows(new, serving)
    assert found is not None
    assert (found.value, found.n) == (-0.25, 8)
    assert found.low is not None
    assert found.high is not None
    assert -1 <= found.low < found.value < found.high <= 0
    assert same_rows({"elsewhere": 1.0}, serving) is None
    # Without labels when it was trained: fair where it is held out now, and it has learnt of nothing in the group.
    later = serving.predictions.filter(response__prompt__group__in=["g0", "g3"], split="held_out")
    later.update(split="unlabelled")
    assert same_rows(new, serving).n == 5  # type: ignore[union-attr]
    now = HeldOut(0, "group", frozenset({"g0", "g3"}))
    assert same_rows(new, serving, now).n == 7, "g3 has a trained pair"  # type: ignore[union-attr]
    later = serving.predictions.filter(split="unlabelled")
    later.update(split="held_out")
    run = make_run(project, state=State.RUNNING)
    artifact = {"kind": "ordinal", "digest": "e" * 64}
    published = version_publish(run=run, metrics=measured(0.9, 0.2), artifact=artifact, held_out=new)
    assert published.gate_passed is (found.high >= 0)
    assert "On the same 8 held-out judgements it is -0.250" in published.gate_reason


# --- The pages ---


def words(client: Client, name: str, *keys: int) -> str:
    page = client.get(reverse(name, args=["capitals", *keys])).content.decode()
    return re.sub(r"\s+", " ", strip_tags(page))


@pytest.mark.django_db
def test_the_pages_say_green_amber_and_why(
    labelled: Project, make_version: Make, make_run: Make, admin: User, client_of: Callable[[User], Client]
) -> None:
    client = client_of(admin)
    artifact = {"kind": "ordinal", "digest": "e" * 64}

    def publish(metrics: dict[str, Any]) -> ModelVersion:
        run = make_run(labelled, state=State.DONE, metrics=metrics)
        (run.folder / "model").mkdir(parents=True)
        (run.folder / "model" / "reward_config.json").write_text("{}")
        made = version_publish(run=run, metrics=metrics, artifact=artifact)
        if made.gate_passed:
            version_promote(version=made)
        return made

    first = publish(measured(0.66, -0.06))
    assert first.is_serving
    page = words(client, "training:run", first.run_id)
    assert "below “the longer one wins” First version: held-out pair accuracy 0.660" in page
    assert "Caliper, as none that does better was there (below “the longer one wins”)" in page
    assert "passed the gate" not in page
    assert "below “the longer one wins” serving" in words(client, "ratings:project")

    collapsed = publish(measured(spread=0.0))
    assert not collapsed.is_serving
    page = words(client, "training:run", collapsed.run_id)
    assert "held at the gate Collapsed: the scores of 400 responses spread by 0.0000 only" in page

    good = publish(measured(0.72, 0.04))
    assert good.is_serving
    assert "passed the gate" in words(client, "training:run", good.run_id)

    # A person may let the one that was held serve; it is kept who did, and that the gate had held it.
    client.post(reverse("training:version-promote", args=["capitals", collapsed.pk]))
    page = words(client, "training:run", collapsed.run_id)
    assert "adam rolled back from v3. The gate had held it back." in page
    assert "held at the gate" in words(client, "ratings:project")
    entry = AuditEntry.objects.filter(action=Action.VERSION_ROLLED_BACK).first()
    assert entry is not None
    assert entry.detail["gate_passed"] is False
