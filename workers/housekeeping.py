"""What is done now and then, off every job's way: leftovers are swept, old weights packed away, the disk is measured.

A job that was killed leaves its unfinished files. Which job a file belongs to stands in its path; a file of a job that
lives is left alone, and so is everything younger than an hour, whoever it belongs to.
"""

import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from django.conf import settings

from webapp.corpus.models import Import
from webapp.jobs import ACTIVE, State
from webapp.keeping import files_held
from webapp.operations.disk import disk_measure
from webapp.snapshots.models import Export
from webapp.training.models import ModelExport, TrainingRun
from webapp.training.retention import versions_pack

logger = logging.getLogger(__name__)

# Longer than any upload; and no job of any kind says nothing on the disk for so long.
LEFT_AFTER_SECONDS = 3600.0


def housekeep() -> None:
    """Each part by itself; those that remove files wait for a backup until next time."""
    for part in (leftovers_sweep, lambda: versions_pack(keep=settings.KEEP_VERSIONS)):
        with files_held(shared=False) as alone:
            if not alone:
                logger.info("a backup runs; nothing is removed now")
                break
            try:
                part()
            except Exception:
                logger.exception("housekeeping failed")
    disk_measure()


def leftovers_sweep() -> int:
    """Remove what killed jobs left; how many files and folders."""
    swept = 0
    for path in _leftovers():
        if time.time() - _touched(path) < LEFT_AFTER_SECONDS:
            continue
        logger.info("swept %s, which a job that ended left", path.relative_to(settings.DATA_DIR))
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        swept += 1
    return swept


def _leftovers() -> Iterator[Path]:
    """Unfinished files of jobs that don't live. The files are listed first, so that a job that begins now has none."""
    for find in (_of_imports, _of_snapshots, _of_exports, _of_model_exports, _of_runs):
        yield from find(settings.DATA_DIR)


def _of_imports(root: Path) -> Iterator[Path]:
    """Spools of imports; uploads that were broken off before there was a row."""
    folders = list((root / "imports").glob("*"))
    states = dict(Import.objects.values_list("folder", "state"))
    for folder in folders:
        state = states.get(f"imports/{folder.name}")
        if state is None:
            yield folder
        elif state not in ACTIVE:
            yield from [*folder.glob("tmp*"), *folder.glob("*.part")]


def _of_snapshots(root: Path) -> Iterator[Path]:
    """Snapshots that were being taken, unless a training or an export that began before lives: it may be its."""
    for path in list((root / "snapshots").glob(".taking-*")):
        began = [
            job.started_at.timestamp()
            for model in (TrainingRun, Export)
            for job in model.objects.filter(state=State.RUNNING)
            if job.started_at is not None
        ]
        if not began or min(began) > _touched(path):
            yield path


def _of_exports(root: Path) -> Iterator[Path]:
    yield from _numbered(
        root / "exports",
        lambda name: re.match(r"\.(\d+)-", name) or re.fullmatch(r"(\d+)\.(part|progress\.json)", name),
        set(Export.objects.filter(state__in=ACTIVE).values_list("pk", flat=True)),
    )


def _of_model_exports(root: Path) -> Iterator[Path]:
    yield from _numbered(
        root / "model-exports",
        lambda name: re.fullmatch(r"(\d+)(\.part)?", name),
        set(ModelExport.objects.filter(state__in=ACTIVE).values_list("pk", flat=True)),
    )


def _of_runs(root: Path) -> Iterator[Path]:
    """Checkpoints of runs that are done; those of all others may be resumed from."""
    done = set(TrainingRun.objects.filter(state=State.DONE).values_list("pk", flat=True))
    for path in list((root / "runs").glob("*/checkpoint")):
        if path.parent.name.isdecimal() and int(path.parent.name) in done:
            yield path


def _numbered(folder: Path, match: Callable[[str], re.Match[str] | None], living: set[int]) -> Iterator[Path]:
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        if (found := match(path.name)) and int(found[1]) not in living:
            yield path


def _touched(path: Path) -> float:
    """When something was last written there; now, where it went meanwhile."""
    try:
        return max(each.stat().st_mtime for each in [path, *path.rglob("*")])
    except OSError:
        return time.time()
