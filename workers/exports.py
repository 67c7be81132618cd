"""A trained model as a zip to take away, from the queued row to the archive. Called by the task.

What needs torch happens in a child process, as trainings do: the worker stays small, and a crash ends the child alone.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings

from webapp import life
from webapp.jobs import JobFailed, Stopped, carried
from webapp.snapshots.exporting import zip_folder
from webapp.training.models import ARCHIVE_FORMAT, ModelExport
from workers.bases import base_linked
from workers.child import explained_with_disk, log_tail, never, supervise
from workers.results import BadResult, read_artifact


def export_model(pk: int, *, stopping: Callable[[], bool] = never) -> None:
    """Claim the export and carry it to its end; leaves at once if it isn't there to be claimed. Never raises."""
    export = (
        ModelExport.objects.select_related("version__run__snapshot", "version__project").filter(pk=pk).first()
    )
    if export is None or not export.claim():
        return
    # Files are compared, copied and zipped in silence.
    with carried(export, explain=explained_with_disk), life.alive(export):
        try:
            export.finish(report=_export(export, stopping))
        finally:
            shutil.rmtree(export.folder, ignore_errors=True)


def _export(export: ModelExport, stopping: Callable[[], bool]) -> dict[str, Any]:
    """Make the folder and its archive; returns the report."""
    version, folder, out = export.version, export.folder, export.folder / "out"
    if not version.is_there:
        raise JobFailed(
            "The model's files are gone from the disk. Restore the data folder from a backup, or train it again."
        )
    # What an earlier attempt left is not this one's.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    export.proceed(phase="checking")
    try:
        read_artifact(version.path, method=version.method)
    except BadResult as error:
        # Its remedy speaks of a run that has just ended.
        found = str(error).partition(" The old version")[0]
        raise JobFailed(f"{found} Restore it from a backup, or train it again.") from None
    _convert(export, out, stopping, base_linked(version))
    export.proceed(phase="zipping")
    files = [
        {"name": path.relative_to(out).as_posix(), "bytes": path.stat().st_size}
        for path in sorted(out.rglob("*"))
        if path.is_file()
    ]
    zip_folder(out, export.archive, export.name)
    return {"format": ARCHIVE_FORMAT, "files": files, "archive_bytes": export.archive.stat().st_size}


def _convert(export: ModelExport, out: Path, stopping: Callable[[], bool], bases: list[Path]) -> None:
    """workers.rewards.export in a child of its own, which also writes the model card."""
    version, folder = export.version, export.folder
    metrics = folder / "metrics.json"
    metrics.write_text(json.dumps(version.public_metrics), encoding="utf-8")
    title = f"{version.get_method_display()} v{version.number} of {version.project.name}"
    command = [
        *settings.MODEL_EXPORT_COMMAND, str(version.path), str(out), "--metrics", str(metrics),
        "--format", export.format, f"--title={title}", f"--made={version.created_at:%Y-%m-%d}, run {version.run_id}",
    ]  # fmt: skip
    stopped = False

    def each_second(progress: dict[str, Any] | None) -> bool:
        nonlocal stopped
        stopped = stopped or stopping() or not export.beat(phase="converting")
        return not stopped

    status = supervise(
        command, folder=folder, cwd=settings.BASE_DIR, each_second=each_second, base_folders=bases
    )
    if stopped:
        raise Stopped("shutdown" if stopping() else "not ours")
    if status != 0:
        raise JobFailed(_failure(export, status))


def _failure(export: ModelExport, status: int) -> str:
    lines = log_tail(export.folder, 12)
    refused = [line.removeprefix("refused: ") for line in lines if line.startswith("refused: ")]
    if refused:
        other = "" if export.format == "caliper" else " The Caliper format is there for every model."
        return f"This model can't be converted: {refused[-1]}.{other}"
    if status in (-9, 137):
        return "The conversion was killed (signal 9): most likely the worker's machine ran out of memory."
    return f"The conversion ended with status {status}.\n" + "\n".join(lines)
