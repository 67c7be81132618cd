"""Snapshot: a frozen, content-addressed copy of labels. Export: a file made for a researcher.

DataPush: one that is sent off.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import models
from django.utils import timezone

from webapp.corpus.models import Project
from webapp.jobs import Job, JobFailed
from webapp.snapshots.pushes import Part, Push


def snapshot_path(digest: str) -> Path:
    """Where the snapshot of a digest lies."""
    return settings.DATA_DIR / "snapshots" / digest


class Snapshot(models.Model):
    """Parquet files and a manifest under DATA_DIR/snapshots/<digest>. Never edited, only added."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="snapshots")
    digest = models.CharField(max_length=64)
    counts = models.JSONField()
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "digest"], name="snapshot_once")]
        ordering = ["-pk"]

    @property
    def path(self) -> Path:
        return snapshot_path(self.digest)


class Export(Job):
    """One export of a project's labels in one format, made by a worker."""

    task = "workers.tasks.export_file"

    class Format(models.TextChoices):
        JUDGEMENTS = "judgements", "Caliper judgements (canonical, one row per judgement)"
        CALIPER = "caliper", "Caliper JSONL (everything, can be imported again)"
        TRL_EXPLICIT = "trl-explicit", "TRL preference: prompt, chosen, rejected"
        TRL_IMPLICIT = "trl-implicit", "TRL preference: chosen, rejected with the prompt inside"
        TRL_CONVERSATIONAL = "trl-conversational", "TRL preference, conversational: prompt, chosen, rejected"
        TRL_CONVERSATIONAL_IMPLICIT = (
            "trl-conversational-implicit",
            "TRL preference, conversational, implicit prompt",
        )
        TRL_UNPAIRED = "trl-unpaired", "TRL unpaired: prompt, completion, label"
        ARENA = "arena", "LMArena battles"
        ULTRAFEEDBACK = "ultrafeedback", "UltraFeedback: all responses of a prompt, scored"
        HELPSTEER2 = "helpsteer2", "HelpSteer2 preference"
        HELPSTEER3 = "helpsteer3", "HelpSteer3 preference"
        REWARDBENCH = "rewardbench", "RewardBench"
        PREDICTIONS = "predictions", "Predictions of a model, beside people's levels"

    class FileType(models.TextChoices):
        PARQUET = "parquet", "Parquet"
        JSONL = "jsonl", "JSONL"
        CSV = "csv", "CSV"

    class Aggregation(models.TextChoices):
        VOTE = "vote", "one row per vote"
        MAJORITY = "majority", "one row per pair, the majority's verdict"

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="exports")
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    format = models.CharField(max_length=40, choices=Format.choices, default=Format.JUDGEMENTS)
    file_type = models.CharField(max_length=10, choices=FileType.choices, default=FileType.PARQUET)
    aggregation = models.CharField(max_length=10, choices=Aggregation.choices, default=Aggregation.MAJORITY)
    # Only in the canonical format: also judgements that were corrected or taken back.
    superseded = models.BooleanField(default=False)
    # Only for CSV: an apostrophe before texts that a spreadsheet would run.
    safe_for_spreadsheets = models.BooleanField(default=False)
    # Rows of held-out prompts as a split "test" of their own, as a training would divide them.
    held_out_apart = models.BooleanField(default=False)
    # Only for predictions: whose, such as "oprm-3"; empty for the versions that serve.
    version = models.CharField(max_length=40, blank=True)
    # Rows written, rows left out or changed and why, the snapshot's digest.
    report = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ["-pk"]

    @property
    def folder(self) -> Path:
        """The data set: data files and README.md, as `datasets.load_dataset` takes it."""
        return settings.DATA_DIR / "exports" / str(self.pk)

    @property
    def archive(self) -> Path:
        return settings.DATA_DIR / "exports" / f"{self.pk}.zip"

    @property
    def progress_path(self) -> Path:
        return settings.DATA_DIR / "exports" / f"{self.pk}.progress.json"


class DataPush(Push):
    """An export carried to a hub id or a store's address by a worker: its data files and its data card."""

    task = "workers.tasks.push_data"
    kind = "dataset"

    export = models.ForeignKey(Export, on_delete=models.CASCADE, related_name="pushes")

    @property
    def project(self) -> Project:
        return self.export.project

    @property
    def title(self) -> str:
        return f"{self.export.get_format_display().partition(':')[0]}, export {self.export_id} of {self.project.name}"

    @property
    def facts(self) -> dict[str, Any]:
        export = self.export
        return {"export": export.pk, "format": export.format, "snapshot": export.report.get("snapshot")}

    @contextmanager
    def parts(self) -> Iterator[list[Part]]:
        paths = {
            file["name"]: self.export.folder / file["name"] for file in self.export.report.get("files", [])
        }
        if not paths or not all(path.is_file() for path in paths.values()):
            raise JobFailed(
                "The export's files are gone from the disk. Make the export again, and push that."
            )
        yield [Part(name, path.stat().st_size, partial(path.open, "rb", 0)) for name, path in paths.items()]
