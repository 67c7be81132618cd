"""Retraining by threshold and on schedule."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from tests.training.test_services import in_threads
from webapp.corpus.models import Project
from webapp.jobs import State
from webapp.labels.models import Judgement
from webapp.training.models import TrainingRun
from webapp.training.triggers import retrain_all_due, retrain_due

pytestmark = pytest.mark.usefixtures("sent")
Make = Callable[..., Any]


@pytest.fixture
def threshold(labelled: Project) -> Project:
    """Retrains one method after every 15 labels; it has 20."""
    labelled.retrain_after_labels = 15
    labelled.save()
    return labelled


@pytest.fixture
def scheduled(labelled: Project) -> Project:
    """Retrains every six hours, and was made ten hours ago."""
    labelled.retrain_every_hours = 6
    labelled.created_at = timezone.now() - timedelta(hours=10)
    labelled.save()
    return labelled


def finish(run: TrainingRun, state: str = State.DONE, *, hours_ago: float = 0.0) -> None:
    moment = timezone.now() - timedelta(hours=hours_ago)
    TrainingRun.objects.filter(pk=run.pk).update(
        state=state, queued_at=moment, started_at=moment, finished_at=moment
    )


def test_nothing_retrains_unless_a_project_asks(labelled: Project) -> None:
    assert retrain_all_due() == []


def test_enough_new_labels_start_every_method_of_the_project(threshold: Project, judge: Make) -> None:
    threshold.methods = ["oprm", "bt"]
    threshold.save()
    started = retrain_all_due()
    assert [(run.method, run.trigger) for run in started] == [("oprm", "labels"), ("bt", "labels")]
    assert retrain_all_due() == [], "they wait already"
    for run in started:
        finish(run)
    judge(threshold, 10, levels=4)
    assert retrain_all_due() == [], "14 are new"
    judge(threshold, 1)
    assert len(retrain_all_due()) == 2


def test_a_retrain_takes_the_projects_options(threshold: Project) -> None:
    options = {"reliability": True, "votes": "majority", "hardening": 0.1, "patience": 2}
    threshold.training_options = options
    threshold.save()
    (run,) = retrain_all_due()
    assert {name: run.config[name] for name in options} == options


def test_skips_are_not_labels(threshold: Project, judge: Make) -> None:
    finish(retrain_all_due()[0])
    judge(threshold, 15)
    Judgement.objects.order_by("-pk").filter(pk=Judgement.objects.latest("pk").pk).update(verdict="skip")
    assert retrain_all_due() == []


def test_a_method_that_waits_or_runs_is_left_alone(threshold: Project, make_run: Make) -> None:
    run = make_run(threshold, overrides={"seed": 9})
    assert retrain_all_due() == []
    assert run.claim()
    assert retrain_all_due() == []


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.LOST])
def test_a_run_that_failed_is_tried_again_only_after_new_labels(
    threshold: Project, judge: Make, state: str
) -> None:
    finish(retrain_all_due()[0], state)
    assert retrain_all_due() == []
    judge(threshold, 15)
    assert len(retrain_all_due()) == 1


def test_the_schedule_starts_a_run_when_its_time_has_come(scheduled: Project, judge: Make) -> None:
    (run,) = retrain_all_due()
    assert run.trigger == "schedule"
    finish(run, hours_ago=5)
    judge(scheduled, 1)
    assert retrain_all_due() == []
    finish(run, hours_ago=7)
    assert len(retrain_all_due()) == 1


def test_the_schedule_passes_over_labels_that_are_trained_on_already(scheduled: Project, judge: Make) -> None:
    (run,) = retrain_all_due()
    Judgement.objects.update(created_at=timezone.now() - timedelta(hours=9))
    finish(run, hours_ago=7)
    assert retrain_all_due() == []
    judgement = Judgement.objects.latest("pk")
    judgement.is_current = False
    judgement.save()
    Judgement.objects.create(
        pair=judgement.pair,
        annotator=judgement.annotator,
        verdict="b",
        client_key="corrected",
        supersedes=judgement,
    )
    assert len(retrain_all_due()) == 1, "a correction changes the labels, not their number"


def test_the_schedule_tries_a_failed_run_again_at_its_next_time(scheduled: Project) -> None:
    (run,) = retrain_all_due()
    Judgement.objects.update(created_at=timezone.now() - timedelta(hours=9))
    finish(run, State.FAILED, hours_ago=5)
    assert retrain_all_due() == []
    finish(run, State.FAILED, hours_ago=7)
    assert len(retrain_all_due()) == 1


def test_what_would_be_refused_is_not_started_and_harms_no_other_method(threshold: Project) -> None:
    threshold.methods = ["rgft", "bt"]
    threshold.save()
    assert [run.method for run in retrain_all_due()] == ["bt"]
    threshold.min_judgements = 1000
    threshold.methods = ["clf"]
    threshold.save()
    assert retrain_all_due() == []


@pytest.mark.django_db(transaction=True)
def test_many_ticks_at_once_start_each_run_once(threshold: Project) -> None:
    def tick() -> list[TrainingRun]:
        started = retrain_due(threshold)
        for run in started:
            # A quick worker: the row that the others might run into is no longer queued.
            assert run.claim()
        return started

    results = in_threads(6, tick)
    assert sorted(len(result) for result in results) == [0, 0, 0, 0, 0, 1]
    assert TrainingRun.objects.count() == 1
