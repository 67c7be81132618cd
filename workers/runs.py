"""One training run, from the queued row to the published version. Called by the task and by `manage.py train`.

The row is claimed, a snapshot is taken, the run's folder is written, a child process trains in it, and its result
is stored. Every way in which this can end is a state of the row with a text that a person can act upon.
"""

import contextlib
import errno
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import InterfaceError, OperationalError, transaction

from webapp import life
from webapp.corpus.base_models import STARTER
from webapp.corpus.options import ADAPTED, GENERATIVE, LEARNING, RunRefused
from webapp.jobs import JobFailed, Reason, Stopped, carried, old_connections_close, patiently
from webapp.ratings.services import BadPredictions, predictions_store, votes_store
from webapp.snapshots.services import snapshot_take
from webapp.training.models import ModelVersion, TrainingRun
from webapp.training.remeasuring import measurements_start
from webapp.training.services import (
    base_folder,
    finished_twin,
    starter_command,
    starter_path,
    too_few_labels,
    version_promote,
    version_publish,
    version_start,
)
from workers.bases import LINK, base_linked, is_starter, link_or_copy, link_set, starter_kept
from workers.child import NO_SPACE, explained_with_disk, log_tail, never, supervise
from workers.results import BadResult, read_artifact, read_metrics, read_predictions, read_votes

logger = logging.getLogger(__name__)

REFUSED_STATUS = 2
LOG_LINES = 12
DISK_NEEDED_BYTES = 300 * 1024 * 1024
# A child that ends without a word on a disk with less than this has most likely found it full: what it could not write
# any more (a checkpoint, its part of a file) is larger, and is taken away when it fails.
DISK_FULL_BYTES = DISK_NEEDED_BYTES
RESULTS = ("predictions", "trajectories", "critiques", "joint")
NO_SPACE_SAID = ("No space left on device", "os error 28", "Disk quota exceeded", "os error 122")


def train(pk: int, *, stopping: Callable[[], bool] = never) -> None:
    """Claim the run and carry it to its end; leaves at once if it isn't there to be claimed.

    `stopping` says that this worker is being shut down: the child writes a checkpoint, and the run goes back into
    the queue.
    """
    run = TrainingRun.objects.select_related("project", "snapshot").filter(pk=pk).first()
    if run is None or not run.claim():
        logger.info("run %s is not waiting; this message leaves", pk)
        return
    logger.info("run %s: %s on project %s", pk, run.method, run.project.slug)
    with carried(run, explain=explained_with_disk):
        try:
            _train(run, stopping)
        except (KeyboardInterrupt, SystemExit):
            # Only in the foreground (manage.py train --inline): the person at the keyboard cancels.
            run.stop()
            raise


def _train(run: TrainingRun, stopping: Callable[[], bool]) -> None:
    folder = run.folder
    # Before anything is written: the row may be of a version that took any path.
    base = _base_folder(run)
    # There is a checkpoint, or all of the work was done but for storing its result.
    kept = (folder / "checkpoint").is_dir() or (folder / "metrics.json").exists()
    resumed = kept and run.snapshot is not None
    if not resumed:
        # What an earlier attempt said is of no use now.
        fresh: dict[str, Any] = {
            "step": 0,
            "total": 0,
            "loss": None,
            "tokens_per_second": None,
            "overall": 0,
            "tracking_url": "",
            "live": {},
        }
        run.proceed(phase="taking a snapshot", **fresh)
        with life.alive(run):
            run.snapshot = snapshot_take(project=run.project)
    assert run.snapshot is not None
    counts = run.snapshot.counts
    labels = counts["judgements"] + counts["levels"]
    run.labels_seen = labels
    run.proceed(phase="starting", snapshot=run.snapshot, labels_seen=labels)
    if run.method in LEARNING and (refusal := too_few_labels(run.project, labels)):
        raise JobFailed(refusal)
    if (twin := finished_twin(run)) is not None:
        run.finish(same_as=twin)
        return
    folder_write(run, resumed=resumed)
    if run.config["base_model"] == STARTER:
        _starter_build(run, stopping)
    with _base_linked(run, base, resumed=resumed) as (folders, kept_starter):
        status = _supervised(run, [*settings.TRAIN_COMMAND, str(folder)], stopping, base_folders=folders)
    if status != 0:
        raise JobFailed(failure_text(folder, status))
    if kept_starter is not None and kept_starter != folder / LINK:
        starter_kept(folder, kept_starter)
    try:
        with life.alive(run):
            version = _publish(run)
            base_linked(version)
    except (BadResult, BadPredictions):
        # Without this file the result is made again when the run is resumed.
        (folder / "metrics.json").unlink(missing_ok=True)
        raise
    if run.method not in LEARNING:
        return  # it holds out nothing that others have not
    try:
        measurements_start(version)
    except Exception:
        # The training has ended well; a button on the versions' pages asks for the same.
        logger.exception("run %s: older versions are not measured again", run.pk)


def _base_folder(run: TrainingRun) -> Path | None:
    """Where the run's base model lies; None for one that needs no folder. Raises JobFailed with what to do instead."""
    try:
        return base_folder(run.project, run.config["base_model"])
    except RunRefused as refusal:
        raise JobFailed(f"{refusal} Then start a new run.") from None


@contextlib.contextmanager
def _base_linked(
    run: TrainingRun, base: Path | None, *, resumed: bool
) -> Iterator[tuple[list[Path], Path | None]]:
    """RUN_DIR/base leads to the base model while the child works: config.json and what is made of it tell no path.

    Yields the folders that the child may load from, and the starter's kept files where the adapters will lie over them.
    """
    link, name = run.folder / LINK, run.config["base_model"]
    adapted = run.config["tuning"] in ADAPTED or run.method == "judge"  # what it needs stays the base model's
    if base is not None and name == STARTER and adapted:
        here = link.is_dir() and not link.is_symlink()
        kept = link if resumed and here else starter_kept(run.folder, base)
        yield [kept], kept
        return
    start = version_start(run.project, name)
    below = [] if start is None else base_linked(start)
    if link.is_symlink():
        link.unlink()
    shutil.rmtree(link, ignore_errors=True)
    if base is not None:
        link_set(link, base)
    try:
        over_starter = start is not None and adapted and is_starter(start)
        yield [*([] if base is None else [base]), *below], below[0] if over_starter else None
    finally:
        link.unlink(missing_ok=True)


def folder_write(run: TrainingRun, *, resumed: bool) -> None:
    """RUN_DIR with config.json and the snapshot's files; what an earlier attempt left is cleared away."""
    assert run.snapshot is not None
    folder, source = run.folder, run.snapshot.path
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < DISK_NEEDED_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    leftovers = (
        ["error.json"]
        if resumed
        else ["error.json", "progress.jsonl", "metrics.json", *(f"{name}.parquet" for name in RESULTS)]
    )
    for name in leftovers:
        (folder / name).unlink(missing_ok=True)
    if not source.is_dir():
        raise JobFailed(
            "The snapshot's files are gone from the disk. Restore the data folder from a backup, or start a new run, "
            "which takes a new snapshot."
        )
    if not resumed:
        for name in ("checkpoint", "model", "snapshot", "tracking"):
            shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "snapshot").mkdir(exist_ok=True)
    for path in sorted(source.iterdir()):
        target = folder / "snapshot" / path.name
        if not target.exists():
            link_or_copy(path, target)
    config = {
        **run.config,
        "snapshot_digest": run.snapshot.digest,
        "split_salt": run.project.split_salt,
    }
    if (start := version_start(run.project, config["base_model"])) is not None:
        # It has learnt the other groups' labels.
        config["held_out_groups"] = start.held_out_groups
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def _starter_build(run: TrainingRun, stopping: Callable[[], bool]) -> None:
    """Make the project's starter language model from the snapshot's texts, unless it is there."""
    target = starter_path(run.project)
    target.parent.mkdir(parents=True, exist_ok=True)
    if (target / "config.json").exists():
        return
    run.proceed(phase="building the starter model")
    command = starter_command(run.folder / "snapshot", target)
    status = _supervised(run, command, stopping)
    if status != 0:
        raise JobFailed("The starter language model could not be built. " + failure_text(run.folder, status))


def _supervised(
    run: TrainingRun, command: list[str], stopping: Callable[[], bool], *, base_folders: Sequence[Path] = ()
) -> int:
    """Run the child and copy its progress into the row each second. Raises Stopped if it was told to stop."""
    reason: Reason | None = None

    def each_second(progress: dict[str, Any] | None) -> bool:
        nonlocal reason
        try:
            old_connections_close()
            mine, cancelled = run.beat(**(progress or {})), run.asked_to_stop()
        except (OperationalError, InterfaceError) as error:
            # A database that restarts must not cost a training. Should it stay away, the reaper gives the run up.
            logger.warning("run %s: the database doesn't answer: %s", run.pk, error)
            mine, cancelled = True, False
        if reason is None:
            reason = (
                "not ours" if not mine else "cancelled" if cancelled else "shutdown" if stopping() else None
            )
        return reason is None

    status = supervise(
        command,
        folder=run.folder,
        cwd=settings.BASE_DIR,
        each_second=each_second,
        base_folders=base_folders,
        endpoint=run.config["base_model"],
    )
    if reason is not None:
        raise Stopped(reason)
    return status


def _publish(run: TrainingRun) -> ModelVersion:
    """Check what the child left and store it: version, predictions, promotion and DONE, all of it or nothing."""
    folder = run.folder
    patiently(lambda: run.proceed(phase="storing predictions"))
    metrics = read_metrics(folder)
    artifact = read_artifact(folder / "model", method=run.method)
    rows = read_predictions(folder)
    votes = read_votes(folder) if run.method in GENERATIVE else None
    held_out = {
        row["response_id"]: row["score"]
        for row in rows
        if row["split"] == "held_out" and row["score"] is not None
    }

    def store() -> ModelVersion:
        with transaction.atomic():
            version = version_publish(run=run, metrics=metrics, artifact=artifact, held_out=held_out)
            predictions_store(version=version, rows=rows)
            if votes is not None:
                votes_store(version=version, **votes._asdict())
            if version.gate_passed:
                version_promote(version=version)
            # Also a lock on the row: a cancel comes either before this or too late. It is the last act, since
            # the signs of life need the row until then.
            if TrainingRun.objects.select_for_update(no_key=True).get(pk=run.pk).cancel_requested:
                raise Stopped("cancelled")
            if not run.finish(metrics=metrics):
                raise Stopped("not ours")
            return version

    version = patiently(store)
    logger.info("run %s: %s; %s", run.pk, version, version.gate_reason)
    return version


def failure_text(folder: Path, status: int) -> str:
    """Why the child ended with this status, readable, with the end of its log where that is all there is."""
    told = _told(folder)
    said = told or _log_end(folder, "refused: ")
    if _no_space(folder, said, status):
        return f"The training failed. {NO_SPACE}"
    if status == REFUSED_STATUS:
        return said or "The training refused to start; the log says why."
    if status in (-9, 137):
        return (
            "The training process was killed (signal 9): most likely the machine ran out of memory. "
            "Choose a smaller base model, frozen tuning or a smaller max_length, then start a new run."
        )
    if status in (-15, 143):
        return (
            "The training process was stopped from outside (signal 15). Resume goes on from its checkpoint."
        )
    cause = told or (
        f"It crashed with signal {-status}." if status < 0 else f"It ended with status {status}."
    )
    lines = "" if told else _log_end(folder)
    return f"The training failed. {cause}" + (f"\n{lines}" if lines else "")


def _no_space(folder: Path, said: str, status: int) -> bool:
    """Whether the child failed for want of space: it says so, or could not even write what ended it."""
    texts = [said] if said else log_tail(folder, LOG_LINES)
    if any(words in text for text in texts for words in NO_SPACE_SAID):
        return True
    return not said and 0 < status < 128 and shutil.disk_usage(folder).free < DISK_FULL_BYTES


def _told(folder: Path) -> str:
    """The message of error.json, if the child wrote one."""
    try:
        message = json.loads((folder / "error.json").read_text())["message"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return str(message)[:2000]


def _log_end(folder: Path, prefix: str = "") -> str:
    """The last lines of log.txt; with a prefix, the last line that begins with it, less the prefix."""
    lines = log_tail(folder, LOG_LINES)
    if not prefix:
        return "\n".join(lines)
    found = [line for line in lines if line.startswith(prefix)]
    return found[-1].removeprefix(prefix) if found else ""
