"""Evaluation sets from upload to deletion, and which versions are measured on them."""

import hashlib
import secrets
import shutil
from collections.abc import Sequence

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.db import IntegrityError, transaction

from webapp.accounts.models import User
from webapp.benchmarks.models import EvaluationSet, Measurement
from webapp.corpus.access import check_not_archived
from webapp.corpus.audit import Action, audit
from webapp.corpus.models import Method, Project
from webapp.importing.names import safe_name
from webapp.keeping import files_held
from webapp.training.models import ModelVersion


class SetRefused(Exception):
    """The upload is no new evaluation set; the message says why."""


def set_add(*, project: Project, name: str, files: Sequence[UploadedFile], created_by: User) -> EvaluationSet:
    """Keep uploaded files and queue their reading. Raises SetRefused, OSError; then nothing is kept."""
    check_not_archived(project)
    folder = f"evaluation-sets/{secrets.token_hex(8)}"
    path = settings.DATA_DIR / folder
    path.mkdir(parents=True)
    names: list[str] = []
    digests: list[str] = []
    try:
        for file in files:
            names.append(safe_name(file.name or "", taken=names))
            digest = hashlib.sha256()
            with (path / names[-1]).open("wb") as target:
                for block in file.chunks():
                    digest.update(block)
                    target.write(block)
            digests.append(digest.hexdigest())
        whole = hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
        if (same := project.evaluation_sets.filter(digest=whole).first()) is not None:
            raise SetRefused(f"These files are here already: “{same.name}”.")
        try:
            with transaction.atomic():
                row = EvaluationSet.objects.create(
                    project=project,
                    name=name,
                    created_by=created_by,
                    folder=folder,
                    files=names,
                    digest=whole,
                )
                _audit(row, Action.SET_ADDED, created_by)
                row.enqueue()
        except IntegrityError:
            raise SetRefused(f"There is a set named “{name}” already: give another name.") from None
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return row


def _audit(row: EvaluationSet, action: Action, actor: User) -> None:
    audit(project=row.project, actor=actor, action=action, detail={"set": row.pk, "name": row.name})


def set_retry(*, row: EvaluationSet) -> bool:
    """FAILED | LOST | CANCELLED -> QUEUED, to be read again; False if it was none of these."""
    check_not_archived(row.project)
    return row.requeue()


def set_delete(*, row: EvaluationSet, actor: User) -> None:
    """Delete a set, its files and what was measured on it. A measurement that runs ends by itself."""
    check_not_archived(row.project)
    path = row.path
    with transaction.atomic():
        _audit(row, Action.SET_DELETED, actor)
        row.delete()
    with files_held(shared=False) as alone:
        if alone:  # else housekeeping sweeps the folder after the backup that runs
            shutil.rmtree(path, ignore_errors=True)


def measurement_start(*, evaluation_set: EvaluationSet, version: ModelVersion) -> Measurement:
    """Queue the measurement of a version, anew where an earlier one failed; one that is there is returned as it is."""
    check_not_archived(evaluation_set.project)
    with transaction.atomic():
        row, made = Measurement.objects.get_or_create(evaluation_set=evaluation_set, version=version)
        if made:
            row.enqueue()
    if not made:
        row.requeue()
    return row


def measurements_due() -> list[Measurement]:
    """Queue what is not yet there: on every set that has been read, each method's serving and newest version.

    No judge, which may cost money: somebody asks for that.
    """
    started = []
    for row in EvaluationSet.objects.ready().select_related("project"):
        versions = ModelVersion.objects.unpacked().filter(project=row.project_id).exclude(method=Method.JUDGE)
        serving = set(versions.serving().values_list("pk", flat=True))
        newest = {version.method: version.pk for version in versions.order_by("pk").only("pk", "method")}
        wanted = serving | set(newest.values())
        wanted -= set(row.measurements.filter(version__in=wanted).values_list("version", flat=True))
        for version in versions.filter(pk__in=wanted).order_by("pk"):
            if version.is_there:
                started.append(measurement_start(evaluation_set=row, version=version))
    return started
