"""Retraining without anybody's click: after enough new labels, and on a schedule."""

import logging
from datetime import timedelta

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from webapp.corpus.models import Project
from webapp.jobs import State
from webapp.labels.models import Judgement, QualityLabel
from webapp.training.models import TrainingRun
from webapp.training.services import RunRefused, label_counts, project_lock, run_start

logger = logging.getLogger(__name__)

Trigger = TrainingRun.Trigger


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


def _labels_changed(run: TrainingRun, labels: int) -> bool:
    """Whether anybody judged, corrected or retracted since the run took its snapshot."""
    since = run.started_at or run.queued_at
    return (
        labels != run.labels_seen
        or Judgement.objects.filter(pair__project=run.project_id, created_at__gt=since).exists()
        or QualityLabel.objects.filter(response__project=run.project_id, created_at__gt=since).exists()
    )


def retrain_due(project: Project) -> list[TrainingRun]:
    """Start what is due in one project. Several processes at once start each run once: the project is locked."""
    started = []
    for method in project.methods:
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
