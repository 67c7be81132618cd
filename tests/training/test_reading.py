"""What the base model could not read: the gate refuses, and the run's page says why and what helps."""

from collections.abc import Callable
from typing import Any

import pytest
from django.urls import reverse

from tests.training.conftest import metrics_of
from webapp.accounts.models import User
from webapp.corpus.models import Project
from webapp.jobs import State
from webapp.training import reports
from webapp.training.gate import gate_check
from webapp.training.models import ModelVersion

Make = Callable[..., Any]
NOTE = "20 of 40 pairs read alike: the base model knows none of the characters in which they differ; choose another."
NONE = {"equal": 0, "cut": 0, "unknown": 0, "spelling": 0}


def read(pairs: dict[str, int], held_out: dict[str, int], **rest: Any) -> dict[str, Any]:
    return {"reading": {"pairs": {**NONE, **pairs}, "held_out": {**NONE, **held_out}, **rest}}


@pytest.mark.parametrize(
    ("metrics", "passes", "reason"),
    [
        (
            read({"n": 100, "unknown": 6}, {"n": 0}),
            False,
            "6 of 100 judged pairs read alike to the base model",
        ),
        (read({"n": 100, "unknown": 5}, {"n": 0}), True, "it was not measured"),
        (read({"n": 99, "cut": 9}, {"n": 40, "cut": 2}), True, "it was not measured"),
        (read({"n": 99, "cut": 3}, {"n": 40, "cut": 3}), False, "3 of 40 held-out pairs read alike"),
        (read({"n": 99}, {"n": 40, "cut": 1, "spelling": 1, "unknown": 1}), False, "3 of 40 held-out pairs"),
        (
            read({"n": 99}, {"n": 60, "equal": 40, "cut": 1}) | metrics_of(0.8),
            True,
            "held-out pair accuracy 0.800",
        ),
        (read({"n": 20, "unknown": 20}, {"n": 4, "unknown": 4}), False, "4 of 4 held-out pairs read alike"),
        ({"reading": {"pairs": None, "held_out": "?"}} | metrics_of(0.8), True, "pair accuracy 0.800"),
        ({"reading": None} | metrics_of(0.8), True, "pair accuracy 0.800"),
        ({"generative": {"unread": {"pairs": 2, "n": 40}}} | metrics_of(0.8), True, "pair accuracy 0.800"),
        (
            {"generative": {"unread": {"pairs": 3, "n": 40}}} | metrics_of(0.8),
            False,
            "In 3 of 40 held-out pairs a side got no vote that could be read",
        ),
    ],
)
def test_a_model_that_can_not_read_its_pairs_does_not_serve(
    metrics: dict[str, Any], passes: bool, reason: str
) -> None:
    passed, text, _ = gate_check({"held_out": None, **metrics}, serving=None, max_drop=0.02)
    assert (passed, reason in text) == (passes, True), text
    assert len(text) <= ModelVersion._meta.get_field("gate_reason").max_length  # type: ignore[operator]


@pytest.mark.parametrize(("ties", "passes"), [(0, True), (3, True), (4, False), (60, False)])
def test_a_model_that_gives_both_sides_one_score_does_not_serve(ties: int, passes: bool) -> None:
    metrics = metrics_of(0.8)
    metrics["held_out"]["pairs"]["model_ties"] = ties
    serving = ModelVersion(number=1, metrics=metrics_of(0.5))
    for old in (None, serving):
        passed, text, _ = gate_check(metrics, serving=old, max_drop=0.02)
        assert passed is passes
        assert ("one score in" in text) is not passes


def test_the_page_says_what_could_not_be_read(
    labelled: Project, make_version: Make, admin: User, client_of: Callable[[User], Any]
) -> None:
    version = make_version(labelled, 1, accuracy=0.8)
    rest = {
        "responses": 80,
        "truncated": 4,
        "cut": 3,
        "tokens": 900,
        "unknown": 41,
        "max_length": 256,
        "notes": [NOTE],
        "read_as": "the base model's chat template",
    }
    training = {
        "judgements": 20,
        "levels": 0,
        "responses": 40,
        "dropped": {"reads_alike": 17},
        "truncated": 4,
    }
    metrics = {
        **version.metrics,
        **read({"n": 40, "unknown": 20}, {"n": 7, "unknown": 3}, **rest),
        "training": training,
        "memory": {"words": "1.0 GB for weights", "taken": 3 * 2**30},
    }
    version.run.metrics = metrics
    version.run.state = State.DONE
    version.run.save()
    page = client_of(admin).get(reverse("training:run", args=["capitals", version.run.pk]))
    text = " ".join(page.content.decode().split())
    assert f'<p class="message warning">{NOTE}</p>' in text
    assert "Memory of the GPU: 1.0 GB for weights; 3.0 GB taken." in text
    assert "17 labels left out (their pairs read alike); " in text
    assert (
        "4 texts (5.0 %) shortened to fit into 256 tokens, 3 of them in the response itself; 41 unknown tokens"
        in text
    )
    assert "41 unknown tokens; texts are read through the base model&#x27;s chat template." in text


def test_older_versions_have_no_such_part() -> None:
    assert reports.reading({}) is None
    assert reports.reading({"reading": {"responses": "many"}}) is None
    found = reports.reading({"reading": {"responses": 0, "notes": [1, "x"]}})
    assert found is not None
    assert (found.notes, found.truncated_share, found.read_as) == (["x"], 0.0, "")
