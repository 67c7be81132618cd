"""A program that works in a run's folder: started, watched and stopped as a process of its own.

A crash, an out-of-memory kill or a cancel ends the child alone, and its memory returns to the machine.
"""

import contextlib
import errno
import fcntl
import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from django.conf import settings

from webapp.corpus.endpoints import endpoint_environment
from webapp.jobs import Job, JobFailed, Reason, Stopped, explained
from webapp.training.models import web_address

POLL_SECONDS = 1.0
# From SIGTERM (write a checkpoint) to SIGKILL.
STOP_GRACE_SECONDS = 30.0
HURRIED_GRACE_SECONDS = 5.0
LOCK_WAIT_SECONDS = 20.0
# Labelling goes first on a machine that serves pages as well.
NICENESS = 5
# What the child gets of this process's environment, by name or by what a name begins with. The child reads a folder
# and writes a folder, so it has no business with the keys, addresses and passwords that the worker is given; a list of
# those would lack the next one. HF_TOKEN is among what it gets: models are downloaded with it. A launcher that needs
# more is given it in CALIPER_TRAIN_COMMAND ("env NAME=value accelerate launch ..."). An endpoint's key reaches those
# children alone that ask it.
_PASSED = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "TZ", "LANG", "LANGUAGE", "TMPDIR", "TEMP", "TMP", "PWD",
    "CALIPER_CACHE_DIR", "VIRTUAL_ENV", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
})  # fmt: skip
_PASSED_BEGINNINGS = (
    "LC_", "LD_", "DYLD_", "PYTHON", "XDG_", "CONDA_", "MALLOC_", "GOMP_", "OMP_", "MKL_", "KMP_", "OPENBLAS_", "DNNL_",
    "ONEDNN_", "CUDA_", "NVIDIA_", "NCCL_", "CUBLAS_", "ROCR_", "HIP_", "HSA_", "GLOO_", "UCX_", "FI_", "TORCH",
    "PYTORCH_", "TRITON_", "ACCELERATE_", "FSDP_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "TOKENIZERS_",
    "SAFETENSORS_", "SLURM_", "WANDB_", "MLFLOW_", "TRACKIO_",
)  # fmt: skip


# Further figures of a progress line: of methods that write their judgement.
LIVE = (
    "reward", "kl", "samples_per_second", "cost", "tokens_in", "tokens_out", "prompts", "kept", "wrong", "too_easy",
    "all_wrong", "hinted", "unparsed",
)  # fmt: skip

NO_SPACE = "No space is left on the disk of the data folder. Free some, then press Resume."


class FolderBusy(JobFailed):
    """An earlier process still works in the folder and could not be ended."""


class ProgressLog:
    """Reads what has been appended to progress.jsonl since the last look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._live: dict[str, float] = {}
        self._offset = path.stat().st_size if path.exists() else 0

    def newest(self) -> dict[str, Any] | None:
        """The last whole line that came in since the last call, as row fields; None if there is none."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return None
        whole, _, _ = text.rpartition(b"\n")
        if not whole:
            return None
        self._offset += len(whole) + 1
        told = [fields for line in whole.splitlines() if (fields := progress_fields(line)) is not None]
        for fields in told:
            self._live |= fields.pop("live", {})
        return {**told[-1], **({"live": dict(self._live)} if self._live else {})} if told else None


def progress_fields(line: bytes) -> dict[str, Any] | None:
    """One line of progress.jsonl as fields of the run's row; None if it isn't one.

    Loss and speed are left out where the line has none, so that the row keeps the last ones of the training phase.
    """
    try:
        record = json.loads(line)
        fields: dict[str, Any] = {
            "phase": str(record["phase"])[:40],
            "step": max(0, int(record["step"])),
            "total": max(0, int(record["total"])),
        }
        numbers = {name: record.get(name) for name in ("loss", "tokens_per_second", *LIVE)}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    known = {
        name: float(value)
        for name, value in numbers.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }
    if live := {name: known.pop(name) for name in LIVE if name in known}:
        fields["live"] = live
    fields |= known
    if address := web_address(record.get("tracking")):
        fields["tracking_url"] = address
    return fields


@contextlib.contextmanager
def folder_lock(folder: Path, *, wait: float = LOCK_WAIT_SECONDS) -> Iterator[int]:
    """Hold RUN_DIR/lock; yields its descriptor, which the child inherits and so holds as long as it lives.

    A run is resumed after its worker died; should the dead worker's child still live on this machine, it is
    killed, since two must never write the same checkpoint. Raises FolderBusy if that doesn't help.
    """
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + wait
        killed = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left < wait / 2 and not killed:
                    # While the lock is held, the process named in it lives.
                    text = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
                    if text.isdigit():
                        signal_group(int(text), signal.SIGKILL)
                    killed = True
                if left < 0:
                    raise FolderBusy(
                        f"An earlier process still works in the folder of run {folder.name}."
                    ) from None
                time.sleep(0.1)
        os.ftruncate(descriptor, 0)
        yield descriptor
    finally:
        os.close(descriptor)


def signal_group(pid: int, number: int) -> None:
    """Signal the process group that `pid` leads, if it is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _passed(name: str) -> bool:
    known = name.upper() in _PASSED
    return known or (name.startswith(_PASSED_BEGINNINGS) and not name.endswith("_FILE"))


def environment(base_folders: Sequence[Path] = (), endpoint: str = "") -> dict[str, str]:
    """The child's: what a training needs of ours, as many threads as it may use cores, the parent it must not outlive,
    the only folders on this machine that a base model may be loaded from, and what the endpoint that it asks needs."""
    result = {name: value for name, value in os.environ.items() if _passed(name)}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    result.setdefault("OMP_NUM_THREADS", str(cores))
    # Threads that wait for each other sleep: on cores that pages and labelling use as well, spinning halves the speed.
    result.setdefault("OMP_WAIT_POLICY", "passive")
    result.update(
        CALIPER_PARENT_PID=str(os.getpid()),
        CALIPER_BASE_FOLDERS=json.dumps([str(folder.resolve()) for folder in base_folders]),
        PYTHONUNBUFFERED="1",
        TOKENIZERS_PARALLELISM="false",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
    )
    result.update(endpoint_environment(endpoint))
    return result


def supervise(
    command: Sequence[str],
    *,
    folder: Path,
    cwd: Path,
    each_second: Callable[[dict[str, Any] | None], bool],
    grace: float = STOP_GRACE_SECONDS,
    base_folders: Sequence[Path] = (),
    endpoint: str = "",
) -> int:
    """Run `command` until it ends, its output appended to RUN_DIR/log.txt; returns its exit status.

    `each_second` gets the newest progress (None if nothing is new) and says whether to go on. Once it said no, the
    child gets SIGTERM (and time for a checkpoint), then SIGKILL. Negative status: killed by that signal. Whatever
    is raised here, no child is left behind.
    """
    progress = ProgressLog(folder / "progress.jsonl")
    with folder_lock(folder) as lock, (folder / "log.txt").open("ab") as log:
        child = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=environment(base_folders, endpoint),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock],
        )
        os.pwrite(lock, str(child.pid).encode(), 0)
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, child.pid, NICENESS)
        stopped_at: float | None = None
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(POLL_SECONDS)
                go_on = each_second(progress.newest())
                if child.returncode is not None:
                    return child.returncode
                if stopped_at is not None:
                    if time.monotonic() - stopped_at > grace:
                        signal_group(child.pid, signal.SIGKILL)
                elif not go_on:
                    signal_group(child.pid, signal.SIGTERM)
                    stopped_at = time.monotonic()
        finally:
            _end(child)


def supervise_job(
    job: Job,
    command: Sequence[str],
    *,
    folder: Path,
    stopping: Callable[[], bool],
    base_folders: Sequence[Path] = (),
    endpoint: str = "",
    also: Callable[[], dict[str, Any]] = dict,
) -> int:
    """`supervise` with its progress and what `also` says copied into the job's row; the exit status. Raises Stopped."""
    reason: Reason | None = None

    def each_second(progress: dict[str, Any] | None) -> bool:
        nonlocal reason
        told = {name: value for name, value in (progress or {}).items() if name in ("phase", "step", "total")}
        mine = job.beat(**told, **also())
        if reason is None and not mine:
            reason = "not ours"
        elif reason is None:
            reason = "cancelled" if job.asked_to_stop() else "shutdown" if stopping() else None
        return reason is None

    status = supervise(
        command,
        folder=folder,
        cwd=settings.BASE_DIR,
        each_second=each_second,
        base_folders=base_folders,
        endpoint=endpoint,
    )
    if reason is not None:
        raise Stopped(reason)
    return status


def _end(child: "subprocess.Popen[bytes]") -> None:
    """The watcher broke, or the person at the keyboard pressed Ctrl-C: still leave a checkpoint, and no child."""
    if child.poll() is None:
        signal_group(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(HURRIED_GRACE_SECONDS)
    if child.poll() is None:
        signal_group(child.pid, signal.SIGKILL)
        child.wait()


def never() -> bool:
    """The `stopping` of a job that no worker's shutdown interrupts."""
    return False


def log_tail(folder: Path, count: int) -> list[str]:
    """The last lines of the folder's log; none if there is no log."""
    try:
        with (folder / "log.txt").open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 64 * 1024))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []


def explained_with_disk(error: Exception) -> str:
    """What the page of a job that FAILED says, with what a person can do about the disk."""
    return readable_os_error(error) if isinstance(error, OSError) else explained(error)


def readable_os_error(error: OSError) -> str:
    """What a person can do about a disk that is full or a file that is missing."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NO_SPACE
    if isinstance(error, FileNotFoundError):
        return f"Missing: {error.filename}. Was the data folder moved, or a part of it deleted?"
    if isinstance(error, PermissionError):
        return f"The worker may not write {error.filename}. Give its user the data folder."
    return f"{error.strerror or error} ({error.filename})"
