"""Weights that nobody needs leave the disk: versions that never served and are not among the newest.

What they were measured to be stays: metrics, predictions, the run's settings and log. The same labels and settings
train the same model again.
"""

import shutil

from django.db import transaction
from django.utils import timezone

from webapp.jobs import ACTIVE
from webapp.training.models import ModelExport, ModelPush, ModelVersion, Remeasurement, TrainingRun
from webapp.training.services import project_lock


def versions_packable(*, keep: int) -> list[ModelVersion]:
    """Versions with weights that never served, start no other run, and have `keep` newer ones of their method.

    The start of a run may also be the base model below its version's adapters, and of those that went on from it.
    """
    starts: dict[int, set[str]] = {}
    bases = TrainingRun.objects.order_by().values_list("project_id", "config__base_model").distinct()
    for project, base in bases:
        starts.setdefault(project, set()).add(str(base))
    taken_away = set(ModelExport.objects.filter(state__in=ACTIVE).values_list("version_id", flat=True))
    taken_away |= set(Remeasurement.objects.active().values_list("version_id", flat=True))
    taken_away |= set(ModelPush.objects.active().values_list("export__version_id", flat=True))
    newer: dict[tuple[int, str], int] = {}
    found = []
    for version in ModelVersion.objects.select_related("run", "project").order_by("-number"):
        line = (version.project_id, version.method)
        newer[line] = newer.get(line, 0) + 1
        served = version.is_serving or version.promoted_at is not None
        names = {version.start_name, str(version.path)}
        is_start = bool(names & starts.get(version.project_id, set()))
        if newer[line] > keep and not (served or version.is_packed or is_start or version.pk in taken_away):
            found.append(version)
    return found


def version_pack(*, version: ModelVersion) -> bool:
    """Mark the version as packed away, so that it can't be promoted; False if it serves or served meanwhile."""
    with transaction.atomic():
        project_lock(version.project)
        return (
            ModelVersion.objects.filter(
                pk=version.pk, is_serving=False, promoted_at__isnull=True, packed_at__isnull=True
            ).update(packed_at=timezone.now())
            == 1
        )


def versions_pack(*, keep: int) -> int:
    """Pack away what may go; how many. 0 keeps all. Weights whose removal broke off last time go as well."""
    packed = sum(version_pack(version=version) for version in versions_packable(keep=keep)) if keep else 0
    for version in ModelVersion.objects.filter(packed_at__isnull=False).select_related("run"):
        weights_remove(version)
    return packed


def weights_remove(version: ModelVersion) -> None:
    """The model, what could continue its training, its starter's files, and its archives for download."""
    for name in ("model", "checkpoint", "base"):
        path = version.run.folder / name
        if path.is_symlink():
            path.unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
    for export in version.exports.all():
        export.archive.unlink(missing_ok=True)
