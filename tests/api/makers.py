"""The rows at which the walk's paths end: a maker gets the project and its admin, and gives the path's parameters."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from django.conf import settings

from webapp.accounts.models import User
from webapp.benchmarks.models import EvaluationSet, Measurement
from webapp.corpus.models import Import, Project
from webapp.importing.survey import survey_write
from webapp.jobs import State
from webapp.labels.models import Assignment
from webapp.snapshots.models import Export, Snapshot
from webapp.training.models import ModelVersion, TrainingRun


def card(project: Project, admin: User) -> Any:
    """The card that the admin has answered."""
    return str(Assignment.objects.of(project, admin).get().key)


def preview(project: Project, admin: User) -> Any:
    """An import whose columns were read, with a row left out."""
    folder = settings.DATA_DIR / "imports" / "walk"
    folder.mkdir(parents=True, exist_ok=True)
    column = {"filled": 1, "samples": ["x"], "values": None, "low": None, "high": None, "most": 1}
    survey_write(folder, {"rows": 1, "columns": {"q": column, "one": column}})
    (folder / "errors.jsonl").write_text("{}\n")
    return Import.objects.create(
        project=project, created_by=admin, file_name="x", folder="imports/walk", state=State.DONE
    ).pk


def snapshot(project: Project, admin: User, digest: str = "d") -> Any:
    return Snapshot.objects.create(project=project, digest=digest, counts={"prompts": 1}).pk


def export(project: Project, admin: User) -> Any:
    row = Export.objects.create(
        project=project, state=State.DONE, report={"files": [{"name": "data/train.jsonl", "bytes": 3}]}
    )
    (row.folder / "data").mkdir(parents=True, exist_ok=True)
    (row.folder / "data" / "train.jsonl").write_text("{}\n")
    return row.pk


def run(project: Project, admin: User) -> TrainingRun:
    found = TrainingRun.objects.create(
        project=project, method="oprm", trigger="button", config={}, config_digest="d", state=State.FAILED
    )
    found.folder.mkdir(parents=True, exist_ok=True)
    (found.folder / "log.txt").write_text("a line\n")
    return found


def version(project: Project, admin: User, **fields: Any) -> ModelVersion:
    """With one file of weights."""
    made_by = run(project, admin)
    folder = made_by.folder / "model"
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    artifact = {"files": {"model.safetensors": hashlib.sha256(b"weights").hexdigest()}}
    (folder / "reward_config.json").write_text(json.dumps(artifact))
    number = ModelVersion.objects.filter(project=project).count() + 1
    return ModelVersion.objects.create(
        project=project, run=made_by, method="oprm", number=number, kind="ordinal", digest="d", **fields
    )


def evaluation_set(project: Project, admin: User) -> EvaluationSet:
    return EvaluationSet.objects.create(
        project=project,
        name="Set",
        folder="evaluation-sets/walk",
        digest="d",
        state=State.DONE,
        format="preference",
    )


def measurement(project: Project, admin: User) -> Any:
    row = evaluation_set(project, admin)
    return row.pk, Measurement.objects.create(evaluation_set=row, version=version(project, admin)).pk


MAKERS: dict[str, Callable[[Project, User], Any]] = {
    "card": card,
    "preview": preview,
    "snapshot": snapshot,
    "export": export,
    "export file": lambda project, admin: (export(project, admin), "data/train.jsonl"),
    "format": lambda project, admin: "judgements",
    "run": lambda project, admin: run(project, admin).pk,
    "version": lambda project, admin: version(project, admin).pk,
    "version file": lambda project, admin: (version(project, admin).pk, "model.safetensors"),
    "set": lambda project, admin: evaluation_set(project, admin).pk,
    "measurement": measurement,
}
