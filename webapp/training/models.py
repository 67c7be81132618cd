"""TrainingRun: one training of one method on one snapshot. ModelVersion: the artifact of a finished run.

ModelExport: such an artifact as a file to take away.
"""

import json
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from django.conf import settings
from django.db import IntegrityError, models, transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.functional import cached_property

from webapp.corpus.base_models import base_model_public
from webapp.corpus.models import Method, Project
from webapp.corpus.options import CHOICES, ENDPOINT, FOLDS, GENERATIVE, preset_words
from webapp.events.models import Kind
from webapp.events.recording import event_record
from webapp.jobs import ACTIVE, Job, JobQuerySet, State
from webapp.snapshots.models import Snapshot
from webapp.training import phases
from webapp.training.gate import shortfall
from webapp.training.push_models import ModelPush as ModelPush  # found where models stand

ARTIFACT_NAME = "reward_config.json"
ARCHIVE_FORMAT = 2  # 1 could hold a path
# Estimates of people stay with the project: the model may go anywhere.
PERSONAL = ("annotators", "annotator_count")
TRACKING_URL_LENGTH = 500


def web_address(text: Any) -> str:
    """A link that a page may show, whoever named it: http or https to a host; else empty."""
    if not isinstance(text, str) or len(text) > TRACKING_URL_LENGTH or not text.isprintable() or " " in text:
        return ""
    try:
        parts = urlsplit(text)
        return text if parts.scheme in ("http", "https") and parts.hostname else ""
    except ValueError:
        return ""


def public_config(config: dict[str, Any]) -> dict[str, Any]:
    """A run's settings as people may see them: a path, which older versions took as a base model, is not told."""
    return {**config, "base_model": base_model_public(config.get("base_model", "unknown"))}


def public_metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    """metrics.json without what it says about single people, and without a path of this server."""
    public = {name: value for name, value in metrics.items() if name not in PERSONAL}
    if isinstance(config := public.get("config"), dict):
        public["config"] = public_config(config)
    return public


def saw_levels(metrics: dict[str, Any], method: str) -> bool:
    """Whether a training learnt from people's levels, or writes its judgement by a text that explains them.

    metrics.training counts them: `levels` that were terms of the loss, and `levelled` responses whose level drew a
    pair's region (RgFT's preset of the paper has only these). Trainings from before `levelled` was counted: RgFT alone
    read levels, and refused to start without.
    """
    if method in GENERATIVE:
        return True
    training = metrics.get("training")
    training = training if isinstance(training, dict) else {}
    if method == Method.RGFT and "levelled" not in training:
        return True
    return bool(training.get("levels") or training.get("levelled"))


class RunQuerySet(JobQuerySet):
    def with_versions(self) -> "RunQuerySet":
        """With what the pages show beside a run, and the version that it made."""
        return self.select_related("version", "created_by", "snapshot", "same_as")

    def trained(self, method: str, config: dict[str, Any], *, folded: bool) -> "RunQuerySet":
        """Finished trainings of this method with these settings, tuned and cross-fitted ones or the others."""
        runs = self.filter(state=State.DONE, method=method, same_as=None, **config)
        if folded:
            return runs.filter(config__crossfit=FOLDS).exclude(config__tuning="frozen")
        # a comparison with a key that is not there is neither true nor false
        plain = Q(config__crossfit__isnull=True) | ~Q(config__crossfit=FOLDS) | Q(config__tuning="frozen")
        return runs.filter(plain)


class TrainingRun(Job):
    """Config, state, progress, metrics and log of a training. Its folder: DATA_DIR/runs/<pk> (docs/run-folder.md)."""

    task = "workers.tasks.train_run"
    queue = "train"

    class Trigger(models.TextChoices):
        BUTTON = "button", "started by hand"
        COMMAND = "command", "manage.py train"
        LABELS = "labels", "enough new labels"
        SCHEDULE = "schedule", "on schedule"

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="runs")
    method = models.CharField(max_length=10, choices=Method.choices)
    trigger = models.CharField(max_length=10, choices=Trigger.choices)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    config = models.JSONField(help_text="What RUN_DIR/config.json gets, less the snapshot's digest.")
    # sha256 of the config; with the snapshot's digest it says whether a finished run is the same.
    config_digest = models.CharField(max_length=64)
    # Taken when the run is claimed, so that it holds every label given while the run was waiting.
    snapshot = models.ForeignKey(
        Snapshot, null=True, blank=True, on_delete=models.PROTECT, related_name="runs"
    )
    # Labels present when the snapshot was taken; the threshold trigger counts from here.
    labels_seen = models.PositiveIntegerField(default=0)
    same_as = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.SET_NULL, related_name="repeated_by"
    )
    tokens_per_second = models.FloatField(null=True, blank=True)
    loss = models.FloatField(null=True, blank=True)
    # Percent over all phases; it never falls within an attempt.
    overall = models.PositiveSmallIntegerField(default=0)
    metrics = models.JSONField(default=dict, blank=True)
    # Further figures of the newest progress line, of methods that write: reward, kl, samples_per_second, tokens, cost.
    live = models.JSONField(default=dict, blank=True)
    # The run's page in the tracker that report_to names, as the child told it.
    tracking_url = models.CharField(max_length=TRACKING_URL_LENGTH, blank=True)

    objects: ClassVar[Any] = RunQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        constraints = [
            # Threshold and schedule may fire in several processes at once: one waiting run of equal settings is enough.
            models.UniqueConstraint(
                fields=["project", "config_digest"], condition=Q(state="queued"), name="run_queued_once"
            ),
        ]
        indexes = [models.Index(fields=["project", "state"])]

    @property
    def tracking_link(self) -> str:
        """Where a browser sees the run in its tracker; empty where there is no such page."""
        return web_address(self.tracking_url)

    def claim(self) -> bool:
        """QUEUED -> RUNNING; what an archived project still has in the queue (handed back meanwhile) is cancelled."""
        if Project.objects.filter(pk=self.project_id, archived_at__isnull=False).exists():
            self.request_cancel()
            return False
        return super().claim()

    @property
    def log_names(self) -> dict[str, Any]:
        return {"run": self.pk}

    def ended(self) -> None:
        """Whoever listens is told, with the state and the version that it made."""
        project = Project.objects.get(
            pk=self.project_id
        )  # as it is now, not as it was when the training began
        if project.has_webhooks:
            version = ModelVersion.objects.filter(run=self.pk).first()
            told = {
                "run": self.pk,
                "method": self.method,
                "trigger": self.trigger,
                "state": str(self.state),
                "version": version.told if version is not None else None,
                "same_as": self.same_as_id,
            }
            event_record(project, Kind.RUN_FINISHED, told)

    def beat(self, **progress: Any) -> bool:
        if "phase" in progress and "overall" not in progress:
            reached = phases.overall(
                progress["phase"], progress.get("step", 0), progress.get("total", 0), self._shares
            )
            progress["overall"] = max(self.overall, reached)
        return super().beat(**progress)

    @cached_property
    def _shares(self) -> dict[str, float]:
        """What each phase is worth: what it took in the newest finished run of the kind. One query."""
        names = ["tuning", "base_model", *(["stages"] if "stages" in self.config else [])]
        same = {f"config__{name}": self.config.get(name) for name in names}
        past = TrainingRun.objects.trained(self.method, same, folded=self.folded).first()
        if self.method in GENERATIVE:
            stages = self.config.get("stages") or CHOICES["stages"][0]
            fixed = phases.generative_shares(stages if self.method == Method.GRM else "")
        else:
            fixed = phases.fixed_shares(str(self.config.get("tuning")), self.folded)
        return fixed if past is None else phases.shares_of(past.folder, fixed)

    @property
    def folded(self) -> bool:
        """Whether weights of the base model are trained several times, for cross-fitted predictions."""
        return self.config.get("crossfit") == FOLDS and self.config.get("tuning") != "frozen"

    @property
    def asks_endpoint(self) -> bool:
        """Whether it asks somebody's endpoint rather than a model of its own, and so may have a budget."""
        return str(self.config.get("base_model")).startswith(ENDPOINT)

    @property
    def percent(self) -> int | None:
        """Of all phases, in whole percent; None before it has begun."""
        return None if self.started_at is None else 100 if self.state == State.DONE else self.overall

    def hand_back(self) -> bool:
        """RUNNING -> QUEUED; LOST if the same training already waits there."""
        try:
            with transaction.atomic():
                return super().hand_back()
        except IntegrityError:
            words = "The worker was shut down. The same training waits in the queue already; Resume continues this one."
            return self._move([State.RUNNING], State.LOST, mine=True, finished_at=timezone.now(), error=words)

    @property
    def folder(self) -> Path:
        return settings.DATA_DIR / "runs" / str(self.pk)


class VersionQuerySet(models.QuerySet["ModelVersion"]):
    def of_method(self, method: str) -> "VersionQuerySet":
        return self.filter(method=method)

    def unpacked(self) -> "VersionQuerySet":
        """Those whose weights are kept."""
        return self.filter(packed_at=None)

    def of_key(self, pk: int | None) -> "ModelVersion | None":
        return None if pk is None else self.filter(pk=pk).first()

    def serving(self) -> "VersionQuerySet":
        return self.filter(is_serving=True)


class ModelVersion(models.Model):
    """Weights, tokenizer, scale, template and digest under RUN_DIR/model. Never edited, but for who serves."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="versions")
    run = models.OneToOneField(TrainingRun, on_delete=models.PROTECT, related_name="version")
    method = models.CharField(max_length=10, choices=Method.choices)
    number = models.PositiveIntegerField(help_text="Counts the versions of a method in a project from 1.")
    kind = models.CharField(max_length=10, choices=[("scalar", "scalar"), ("ordinal", "ordinal")])
    # For P(preferred): Rao-Kupper tie parameter (of scalar versions; may be null) and temperature.
    tie = models.FloatField(null=True, blank=True)
    temperature = models.FloatField(default=1.0)
    digest = models.CharField(max_length=64)
    metrics = models.JSONField(default=dict)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    is_serving = models.BooleanField(default=False)
    promoted_at = models.DateTimeField(null=True, blank=True)
    gate_passed = models.BooleanField(null=True)
    gate_reason = models.CharField(max_length=300, blank=True)
    # When its weights were taken off the disk (webapp.training.retention); metrics and predictions stay.
    packed_at = models.DateTimeField(null=True, blank=True)

    objects = VersionQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(fields=["project", "method", "number"], name="version_number"),
            models.UniqueConstraint(
                fields=["project", "method"], condition=Q(is_serving=True), name="version_serving_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.method} v{self.number}"

    @property
    def path(self) -> Path:
        return settings.DATA_DIR / "runs" / str(self.run_id) / "model"

    @property
    def told(self) -> dict[str, Any]:
        """What those who listen are told of it: ids and plain values."""
        return {
            "version": self.pk,
            "name": self.address,
            "method": self.method,
            "number": self.number,
            "kind": self.kind,
            "digest": self.digest,
            "run": self.run_id,
            "gate_passed": self.gate_passed,
        }

    @property
    def gate_mark(self) -> str:
        """What it falls short of although it may serve, for an amber badge in place of the green one."""
        return shortfall(self.metrics)[0]

    @property
    def address(self) -> str:
        """Its name in an address bar."""
        return f"{self.method}-{self.number}"

    @property
    def short_method(self) -> str:
        """Its method in one word, for where several stand in a row."""
        return Method(self.method).short

    @property
    def start_name(self) -> str:
        """The name under which a run of the same project may start from it."""
        return f"version:{self.address}"

    @property
    def saw_levels(self) -> bool:
        """Whether bad, normal and good mean something on its scale."""
        return saw_levels(self.metrics, self.method)

    @property
    def level_cuts(self) -> tuple[float, float] | None:
        """Where bad and normal end on a scalar version's rewards; None for ratings, and where it saw no levels."""
        cuts = self.metrics.get("level_cuts")
        return (cuts[0], cuts[1]) if isinstance(cuts, list) and len(cuts) == 2 else None

    @property
    def preset(self) -> str:
        """Which preset of RgFT it is, in words; empty for other methods."""
        config = self.metrics.get("config")
        return preset_words(self.method, config) if isinstance(config, dict) else ""

    @property
    def is_there(self) -> bool:
        """Whether its files are still on the disk."""
        return (self.path / ARTIFACT_NAME).is_file()

    @property
    def held_out_groups(self) -> list[str]:
        """The groups whose labels it has not learnt; empty where it held out something else than whole groups."""
        split = self.metrics.get("split") or {}
        return list(split.get("held_out") or ()) if split.get("unit") == "group" else []

    @property
    def artifact(self) -> dict[str, Any]:
        """reward_config.json; empty where it can't be read."""
        try:
            found = json.loads((self.path / ARTIFACT_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def adapter_shape(self) -> dict[str, int]:
        """lora_rank and lora_alpha of a version that is adapters over a base model; empty for whole weights."""
        try:
            found = json.loads((self.path / "adapter_config.json").read_text(encoding="utf-8"))
            return {"lora_rank": int(found["r"]), "lora_alpha": int(found["lora_alpha"])}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def replaced(self) -> "ModelVersion | None":
        """The version of its method that was promoted last before it. One query."""
        earlier = ModelVersion.objects.of_method(self.method).filter(
            project=self.project_id, promoted_at__lt=self.promoted_at
        )
        return earlier.order_by("-promoted_at").first()

    @property
    def public_metrics(self) -> dict[str, Any]:
        """metrics.json without what it says about single people, and without a path of this server."""
        return public_metrics(self.metrics)

    @property
    def is_packed(self) -> bool:
        return self.packed_at is not None


class Remeasurement(Job):
    """A version measured again, by a worker, on the test set as a newer version's snapshot has it.

    What was measured when the version was trained stays in its metrics.
    """

    task = "workers.tasks.measure_again"
    queue = "train"

    version = models.ForeignKey(ModelVersion, on_delete=models.CASCADE, related_name="remeasurements")
    # The version whose snapshot and held-out names these rows are of.
    rows_of = models.ForeignKey(ModelVersion, on_delete=models.CASCADE, related_name="+")
    # None: Caliper itself, after a training.
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    # As of a training: "held_out" with pairs and levels; "responses" scored, "left_out" units it had learnt of.
    metrics = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["version"], condition=Q(state__in=ACTIVE), name="remeasurement_active_once"
            ),
        ]

    @property
    def folder(self) -> Path:
        """Where the worker works; gone afterwards."""
        return settings.DATA_DIR / "remeasurements" / str(self.pk)


class ModelExportQuerySet(JobQuerySet):
    def done_in(self, project: Project) -> "ModelExportQuerySet":
        """The packed versions of a project."""
        return self.filter(version__project=project, state=State.DONE).select_related("version__project")


class ModelExport(Job):
    """A version packed for download by a worker. The rows stay: they say who took which model out, and when."""

    task = "workers.tasks.export_model"

    class Format(models.TextChoices):
        CALIPER = "caliper", "Caliper format"
        TRANSFORMERS = "transformers", "for transformers"

    version = models.ForeignKey(ModelVersion, on_delete=models.CASCADE, related_name="exports")
    format = models.CharField(max_length=20, choices=Format.choices)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    # Names and bytes of the files, and of the archive.
    report = models.JSONField(default=dict, blank=True)

    objects: ClassVar[Any] = ModelExportQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["version", "format"],
                condition=Q(state__in=ACTIVE),
                name="model_export_active_once",
            ),
        ]

    @property
    def folder(self) -> Path:
        """Where it is made; empty afterwards."""
        return settings.DATA_DIR / "model-exports" / str(self.pk)

    @property
    def archive(self) -> Path:
        return settings.DATA_DIR / "model-exports" / f"{self.pk}.zip"

    @property
    def is_there(self) -> bool:
        """Whether it can be downloaded; archives of earlier versions may tell a path, and are packed again."""
        packed = self.state == State.DONE and self.report.get("format") == ARCHIVE_FORMAT
        return packed and self.archive.is_file()

    @property
    def name(self) -> str:
        """The archive's name for people, and of the folder in it, less ".zip"."""
        version = self.version
        return f"{version.project.slug}-{version.method}-v{version.number}-{self.format}"
