"""What is done now and then, off every job's way.

`tick`, every few seconds: dead workers' jobs are given up, lost messages sent again, trainings started that are due,
what lists are sorted by is brought up to date.
`housekeep`, every ten minutes: leftovers are swept, old weights packed away, the disk is measured.

A job that was killed leaves its unfinished files. Which job a file belongs to stands in its path; a file of a job that
lives is left alone, and so is everything younger than an hour, whoever it belongs to.
"""

import base64
import contextlib
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from django.conf import settings
from django.core.cache import cache

from webapp.benchmarks.models import EvaluationSet, Measurement
from webapp.benchmarks.services import measurements_due
from webapp.broker import redis_client
from webapp.corpus.models import Import, Project
from webapp.events.services import deliveries_sweep
from webapp.importing.batches import imports_settle
from webapp.jobs import ACTIVE, Job, State
from webapp.keeping import files_held
from webapp.labels.checking import counters_check
from webapp.labels.machine_models import MachineJob
from webapp.labels.queue import reservations_expire
from webapp.locks import short_waits
from webapp.operations.disk import disk_measure
from webapp.ratings.stored import summaries_make
from webapp.ratings.tallies import compare_noted, count_noted
from webapp.snapshots.models import DataPush, Export
from webapp.training.models import ModelExport, ModelPush, Remeasurement, TrainingRun
from webapp.training.retention import versions_pack
from webapp.training.triggers import retrain_all_due

logger = logging.getLogger(__name__)

JOBS: list[type[Job]] = [
    TrainingRun,
    Import,
    Export,
    ModelExport,
    DataPush,
    ModelPush,
    Remeasurement,
    EvaluationSet,
    Measurement,
    MachineJob,
]

# Longer than any upload; and no job of any kind says nothing on the disk for so long.
LEFT_AFTER_SECONDS = 3600.0


def tick() -> None:
    """Each part by itself: one that fails doesn't keep the others from their work.

    None waits for an import's locks: what can't be done now is done at a later tick.
    """
    with short_waits():
        for part in (
            jobs_reap,
            imports_settle,
            jobs_send_again,
            reservations_expire,
            retrain_all_due,
            measurements_due,
        ):
            try:
                part()
            except Exception:
                logger.exception("tick: %s failed", part.__name__)


def tallies_make() -> None:
    """Add up what lists and summaries of large projects show: one process at a time, for minutes perhaps."""
    if not cache.add("tallies", True, LEFT_AFTER_SECONDS):
        return
    try:
        for part in (count_noted, compare_noted, summaries_make):
            try:
                part()
            except Exception:
                logger.exception("tallies: %s failed", part.__name__)
    finally:
        cache.delete("tallies")


def counters_check_all() -> None:
    """What the queue keeps in numbers is compared with the rows, a project at a time; what differs is mended."""
    for project in Project.objects.filter(archived_at__isnull=True):
        for sentence in counters_check(project):
            logger.warning("counters of %s: %s", project.slug, sentence)


def jobs_reap() -> int:
    """RUNNING jobs that have not been heard of for too long become LOST; returns how many."""
    lost = 0
    for model in JOBS:
        for job in model._default_manager.all().silent():
            if job.lose():
                logger.warning("%s %s is lost: no sign of life from its worker", model.__name__, job.pk)
                lost += 1
    return lost


def jobs_send_again() -> int:
    """Send QUEUED jobs whose message is nowhere in the broker (it was down, or emptied); returns how many."""
    sent = 0
    for model in JOBS:
        # A job that waits for another one is sent when that one ends.
        forgotten = [job for job in model._default_manager.all().forgotten() if job.waits_for is None]
        waiting = messages_waiting(model.queue) if forgotten else set()
        for job in forgotten:
            if (job.task, job.pk) not in waiting:
                job.enqueue()
                sent += 1
    return sent


def messages_waiting(queue: str) -> set[tuple[str, int]]:
    """Task and primary key of each message that waits in a queue. Those in a worker's hands are not among them."""
    found = set()
    with redis_client() as client:
        messages = client.lrange(queue, 0, -1)
    for message in messages:
        with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
            envelope = json.loads(message)
            arguments = json.loads(base64.b64decode(envelope["body"]))[0]
            found.add((envelope["headers"]["task"], int(arguments[0])))
    return found


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
    others: tuple[Callable[[], object], ...] = (deliveries_sweep, disk_measure)
    for other in others:
        try:
            other()
        except Exception:
            logger.exception("housekeeping failed")


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
    for find in (
        _of_imports,
        _of_snapshots,
        _of_exports,
        _of_model_exports,
        _of_remeasurements,
        _of_sets,
        _of_machines,
        _of_runs,
    ):
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


def _of_remeasurements(root: Path) -> Iterator[Path]:
    yield from _numbered(
        root / "remeasurements",
        lambda name: re.fullmatch(r"(\d+)", name),
        set(Remeasurement.objects.active().values_list("pk", flat=True)),
    )


def _of_sets(root: Path) -> Iterator[Path]:
    """What measurements left; uploads that were broken off before there was a row, and those of deleted sets."""
    folder = root / "evaluation-sets"
    active = set(Measurement.objects.filter(state__in=ACTIVE).values_list("pk", flat=True))
    yield from _numbered(folder, lambda name: re.fullmatch(r"\.measuring-(\d+)", name), active)
    uploads = [path for path in folder.glob("*") if not path.name.startswith(".")]
    known = set(EvaluationSet.objects.values_list("folder", flat=True))
    yield from (path for path in uploads if f"evaluation-sets/{path.name}" not in known)


def _of_machines(root: Path) -> Iterator[Path]:
    """Questions and answers of jobs that are done or gone; those of all others may be resumed from."""
    stopped = set(MachineJob.objects.exclude(state=State.DONE).values_list("pk", flat=True))
    yield from _numbered(root / "machine-jobs", lambda name: re.fullmatch(r"(\d+)", name), stopped)


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
