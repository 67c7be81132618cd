"""Evaluation sets read, and versions measured on them: from the queued row to stored figures. Called by the tasks."""

import json
import shutil
from collections.abc import Callable
from typing import Any

from django.conf import settings

from webapp import life
from webapp.benchmarks.models import EvaluationSet, Measurement
from webapp.jobs import JobFailed, carried
from webapp.limits import OUT_OF_MEMORY, memory_limited
from workers.bases import base_linked
from workers.child import explained_with_disk, log_tail, never, supervise_job
from workers.results import BadResult, read_artifact
from workers.rewards.data.benchmarks import FORMATS, read_benchmarks, subset_counts
from workers.rewards.data.responses import BadInput

GONE = "The files of this set are gone from the disk. Restore the data folder from a backup, or upload them again."
REFUSALS_KEPT = 100
MEASURED = (0, 1)  # 1: measured, but for rows that can't be read


def read_set(pk: int) -> None:
    """Claim a new set, read its files and store what they hold; leaves at once if it isn't there. Never raises."""
    row = EvaluationSet.objects.filter(pk=pk).first()
    if row is None or not row.claim():
        return
    with carried(row, explain=explained_with_disk), life.alive(row):
        row.proceed(phase="reading")
        row.finish(**_read(row))


def _read(row: EvaluationSet) -> dict[str, Any]:
    if not all(path.is_file() for path in row.paths):
        raise JobFailed(GONE)
    try:
        with memory_limited():
            found = read_benchmarks(row.paths)
    except BadInput as error:
        raise JobFailed(f"It can't be used: {error}.") from None
    except MemoryError:
        raise JobFailed(f"{OUT_OF_MEMORY} Split the files.") from None
    if len(found) > 1:
        names = " and ".join(FORMATS[one.format] for one in found)
        raise JobFailed(f"These are files of several benchmarks ({names}): make a set of each.")
    (benchmark,) = found
    return {
        "format": benchmark.format,
        "items": len(benchmark.items),
        "responses": sum(len(item.responses) for item in benchmark.items),
        "subsets": subset_counts(benchmark.items),
        "people_tied": benchmark.ties,
        "refused": len(benchmark.refused),
        "refusals": benchmark.refused[:REFUSALS_KEPT],
    }


def measure(pk: int, *, stopping: Callable[[], bool] = never) -> None:
    """Claim a measurement and carry it to its end; leaves at once if it isn't there to be claimed. Never raises."""
    row = Measurement.objects.select_related("evaluation_set__project", "version__run").filter(pk=pk).first()
    if row is not None and row.evaluation_set.project.archived_at is not None:
        row.request_cancel()
    if row is None or not row.claim():
        return
    with carried(row, explain=explained_with_disk), life.alive(row):
        try:
            result = _measure(row, stopping)
            line = result["lines"][0]
            overall = {name: line[name] for name in ("value", "low", "high", "n", "length")}
            near = result["near_duplicates"]
            row.finish(result=result, overall=overall, near_duplicates=near and near["n"])
        finally:
            shutil.rmtree(row.folder, ignore_errors=True)


def _measure(row: Measurement, stopping: Callable[[], bool]) -> dict[str, Any]:
    """workers.rewards.benchmark in a child of its own; what it says."""
    version, folder, paths = row.version, row.folder, row.evaluation_set.paths
    if not version.is_there:
        raise JobFailed("The model's files are gone from the disk. Train it again, then measure it.")
    if not all(path.is_file() for path in paths):
        raise JobFailed(GONE)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        read_artifact(version.path, method=version.method)
    except BadResult as error:
        found = str(error).partition(" The old version")[0]  # its remedy speaks of a run that has just ended
        raise JobFailed(f"{found} Restore it from a backup, or train it again.") from None
    out, snapshot = folder / "result.json", version.run.folder / "snapshot"
    command = [
        *settings.BENCHMARK_COMMAND, str(version.path), *map(str, paths), "--json", str(out),
        "--progress", str(folder / "progress.jsonl"),
        *(["--trained-on", str(snapshot)] if snapshot.is_dir() else []),
    ]  # fmt: skip
    bases = base_linked(version)
    status = supervise_job(
        row,
        command,
        folder=folder,
        stopping=stopping,
        base_folders=bases,
        endpoint=version.run.config["base_model"],
    )
    if status not in MEASURED:
        raise JobFailed(_failure(row, status))
    (result,) = json.loads(out.read_text(encoding="utf-8"))["benchmarks"]
    return {name: value for name, value in result.items() if name not in ("refusals", "subsets")}


def _failure(row: Measurement, status: int) -> str:
    lines = log_tail(row.folder, 12)
    refused = [line.removeprefix("refused: ") for line in lines if line.startswith("refused: ")]
    if status == 2 and refused:
        return f"It can't be measured: {refused[-1]}."
    if status in (-9, 137):
        return "It was killed (signal 9): most likely the worker's machine ran out of memory."
    return f"It ended with status {status}.\n" + "\n".join(lines)
