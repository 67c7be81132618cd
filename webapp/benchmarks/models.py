"""EvaluationSet: a benchmark that versions are measured on and never trained on. Measurement: a version on a set."""

from pathlib import Path
from typing import Any, ClassVar

from django.conf import settings
from django.db import models

from webapp.corpus.models import Project
from webapp.jobs import Job, JobQuerySet, State
from webapp.training.models import ModelVersion


class SetQuerySet(JobQuerySet):
    def ready(self) -> "SetQuerySet":
        """Those that have been read, of projects that still change."""
        return self.filter(state=State.DONE, project__archived_at=None)


class EvaluationSet(Job):
    """Uploaded files of one benchmark. As a job: being read by a worker, which says what they hold.

    Its rows are no prompts, responses or labels of the project, so no snapshot can hold them.
    """

    task = "workers.tasks.read_set"

    # As workers.rewards.data.benchmarks names them; empty until it has been read.
    class Format(models.TextChoices):
        REWARDBENCH = "rewardbench", "RewardBench"
        REWARDBENCH2 = "rewardbench2", "RewardBench 2"
        RMBENCH = "rmbench", "RM-Bench"
        RMB = "rmb", "RMB"
        JUDGEBENCH = "judgebench", "JudgeBench"
        PPE_CORRECTNESS = "ppe_correctness", "PPE correctness"
        PPE_HUMAN = "ppe_human", "PPE human preference"
        BEST_OF_N = "best_of_n", "Best of n"
        PREFERENCE = "preference", "Preferences"

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="evaluation_sets")
    name = models.CharField(max_length=80)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    folder = models.CharField(max_length=100, help_text="Below DATA_DIR.")
    files = models.JSONField(default=list, help_text="Names in the folder, in the order of the upload.")
    digest = models.CharField(max_length=64, help_text="sha256 over the files' own.")
    format = models.CharField(max_length=20, choices=Format.choices, blank=True)
    items = models.PositiveIntegerField(default=0, help_text="Prompts.")
    responses = models.PositiveIntegerField(default=0)
    subsets = models.JSONField(default=dict, help_text="Prompts by subset.")
    people_tied = models.PositiveIntegerField(default=0)
    refused = models.PositiveIntegerField(default=0)
    refusals = models.JSONField(default=list, help_text="The first rows that can't be read, and why.")

    objects: ClassVar[Any] = SetQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(fields=["project", "digest"], name="evaluation_set_once"),
            models.UniqueConstraint(fields=["project", "name"], name="evaluation_set_name"),
        ]

    @property
    def path(self) -> Path:
        return settings.DATA_DIR / self.folder

    @property
    def paths(self) -> list[Path]:
        return [self.path / name for name in self.files]


class MeasurementQuerySet(JobQuerySet):
    def of(self, project: Project) -> "MeasurementQuerySet":
        return self.filter(evaluation_set__project=project)

    def done(self) -> "MeasurementQuerySet":
        return self.filter(state=State.DONE)

    def with_versions(self) -> "MeasurementQuerySet":
        return self.select_related("version").defer("version__metrics")

    def with_names(self) -> "MeasurementQuerySet":
        """With what lists show of them, without the whole result."""
        return self.select_related("evaluation_set", "version").defer(
            "result", "evaluation_set__refusals", "version__metrics"
        )


class Measurement(Job):
    """A version measured on an evaluation set. `result` is what workers.rewards.benchmark says."""

    task = "workers.tasks.measure_version"
    # Beside trainings: it takes as much of the machine as they do.
    queue = "train"

    evaluation_set = models.ForeignKey(EvaluationSet, on_delete=models.CASCADE, related_name="measurements")
    version = models.ForeignKey(ModelVersion, on_delete=models.CASCADE, related_name="measurements")
    # {value, low, high, n, length} of the overall line, for lists.
    overall = models.JSONField(default=dict, blank=True)
    near_duplicates = models.PositiveIntegerField(null=True, blank=True)
    result = models.JSONField(default=dict, blank=True)

    objects: ClassVar[Any] = MeasurementQuerySet.as_manager()

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(fields=["evaluation_set", "version"], name="measurement_once"),
        ]

    @property
    def folder(self) -> Path:
        """Where it is made; nothing is left of it afterwards. Backups pass it by."""
        return settings.DATA_DIR / "evaluation-sets" / f".measuring-{self.pk}"
