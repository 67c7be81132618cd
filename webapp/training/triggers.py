"""Retraining without anybody's click: after enough new labels, and on a schedule."""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from webapp.corpus.models import Method, Project
from webapp.corpus.options import LEARNING
from webapp.jobs import State
from webapp.labels.models import Judgement, QualityLabel
from webapp.training.models import TrainingRun
from webapp.training.services import (
    RunRefused,
    label_counts,
    project_lock,
    run_config,
    run_refusal,
    run_start,
)
from webapp.words import counted, duration

logger = logging.getLogger(__name__)

Trigger = TrainingRun.Trigger


def _by_itself(project: Project) -> list[str]:
    """The methods that a project retrains. A judge learns nothing from a new label, and may cost money."""
    return [method for method in project.methods if method in LEARNING]


def due_trigger(project: Project, method: str) -> str:
    """Which trigger asks for a training of this method now; empty if none does.

    Both count from the method's newest run, however that ended: a run that failed is not tried again each time this is
    asked, but after as many new labels, or at the next time of the schedule. Nothing is due while one waits or runs.
    """
    runs = TrainingRun.objects.filter(project=project, method=method)
    if runs.active().exists():
        return ""
    newest = runs.first()
    labels = sum(label_counts(project))
    if (
        project.retrain_after_labels
        and labels - (newest.labels_seen if newest else 0) >= project.retrain_after_labels
    ):
        return Trigger.LABELS
    if project.retrain_every_hours:
        last = newest.queued_at if newest else project.created_at
        if timezone.now() - last >= timedelta(hours=project.retrain_every_hours) and (
            newest is None or newest.state != State.DONE or _labels_changed(newest, labels)
        ):
            return Trigger.SCHEDULE
    return ""


@dataclass(frozen=True)
class Next:
    """When a training of these methods (names) comes by itself, in words; `at`: the schedule's time, if it has one."""

    methods: list[str]
    words: str
    at: datetime | None


def next_trainings(project: Project) -> list[Next]:
    """What `due_trigger` waits for, methods with the same words together; empty for a project that does not retrain."""
    if not (project.retrain_after_labels or project.retrain_every_hours) or project.archived_at is not None:
        return []
    found: list[Next] = []
    labels = sum(label_counts(project))
    for method in _by_itself(project):
        words, at = _next(project, method, labels)
        name = str(Method(method).label)
        if found and found[-1].words == words:
            found[-1].methods.append(name)
        else:
            found.append(Next([name], words, at))
    return found


def _next(project: Project, method: str, labels: int) -> tuple[str, datetime | None]:
    runs = TrainingRun.objects.filter(project=project, method=method)
    newest = runs.first()
    if newest is not None and (newest.is_active or runs.active().exists()):
        return "a training of it waits or runs already.", None
    parts = []
    if project.retrain_after_labels:
        missing = project.retrain_after_labels - (labels - (newest.labels_seen if newest else 0))
        parts.append(
            f"after {counted(missing, 'more label')}" if missing > 0 else "now: enough labels are new"
        )
    at = None
    if project.retrain_every_hours:
        last = newest.queued_at if newest else project.created_at
        at = last + timedelta(hours=project.retrain_every_hours)
        rest = at - timezone.now()
        changed = newest is None or newest.state != State.DONE or _labels_changed(newest, labels)
        if rest > timedelta():
            parts.append(f"in {duration(rest)}, if labels have changed by then")
        else:
            parts.append("now: the schedule's time has come" if changed else "as soon as a label changes")
    words = ", or ".join(parts) + "."
    if refusal := _refusal(project, method):
        words += f" As things stand it would be refused: {refusal}"
    return words, at


def _refusal(project: Project, method: str) -> str:
    try:
        return run_refusal(project, method, run_config(project, method))
    except RunRefused as refusal:
        return str(refusal)


def _labels_changed(run: TrainingRun, labels: int) -> bool:
    """Whether anybody judged, corrected or retracted since the run took its snapshot."""
    since = run.started_at or run.queued_at
    return (
        labels != run.labels_seen
        or Judgement.objects.of_people().filter(pair__project=run.project_id, created_at__gt=since).exists()
        or QualityLabel.objects.filter(response__project=run.project_id, created_at__gt=since).exists()
    )


def retrain_due(project: Project) -> list[TrainingRun]:
    """Start what is due in one project. Several processes at once start each run once: the project is locked."""
    started = []
    for method in _by_itself(project):
        if not due_trigger(project, method):
            continue
        with transaction.atomic():
            if project_lock(project).archived_at is not None:
                break
            if not (trigger := due_trigger(project, method)):
                continue
            try:
                started.append(run_start(project=project, method=method, trigger=trigger))
            except RunRefused as refusal:
                logger.debug(
                    "project %s: %s is due (%s) but refused: %s", project.slug, method, trigger, refusal
                )
    return started


def retrain_all_due() -> list[TrainingRun]:
    """Start what is due in every project that retrains by itself."""
    projects = Project.objects.filter(
        Q(retrain_after_labels__gt=0) | Q(retrain_every_hours__gt=0), archived_at__isnull=True
    ).exclude(methods=[])
    return [run for project in projects for run in retrain_due(project)]
