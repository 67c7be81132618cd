"""A version measured again on rows that came after it, from the queued row to its figures. Called by the task.

The model is loaded in a child process, as trainings are.
"""

import json
import shutil
from collections.abc import Callable

from django.conf import settings
from django.db import transaction

from webapp import life
from webapp.jobs import JobFailed, Stopped, carried, patiently
from webapp.ratings.services import predictions_add
from webapp.training.models import Remeasurement
from workers.bases import base_linked
from workers.child import explained_with_disk, log_tail, never, supervise_job
from workers.results import read_metrics, read_predictions


def measure_version(pk: int, *, stopping: Callable[[], bool] = never) -> None:
    """Claim the measurement and carry it to its end; leaves at once if it isn't there to be claimed. Never raises."""
    rows = Remeasurement.objects.select_related("version__run", "version__project", "rows_of__run__snapshot")
    measurement = rows.filter(pk=pk).first()
    if measurement is None or not measurement.claim():
        return
    with carried(measurement, explain=explained_with_disk), life.alive(measurement):
        try:
            _measure(measurement, stopping)
        finally:
            shutil.rmtree(measurement.folder, ignore_errors=True)


def _measure(measurement: Remeasurement, stopping: Callable[[], bool]) -> None:
    version, folder = measurement.version, measurement.folder
    snapshot = measurement.rows_of.run.snapshot
    if not version.is_there:
        raise JobFailed("The model's files are gone from the disk. Restore the data folder from a backup.")
    if snapshot is None or not snapshot.path.is_dir():
        raise JobFailed(
            "The snapshot's files are gone from the disk. Restore the data folder from a backup, or train again, which "
            "takes a new snapshot."
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    split = measurement.rows_of.metrics.get("split") or {}
    learnt = version.predictions.learnt().values_list("response__external_id", flat=True)
    ask = {
        "unit": split.get("unit", "group"),
        "held_out": split.get("held_out") or [],
        "learnt": list(learnt),
    }
    (folder / "ask.json").write_text(json.dumps(ask), encoding="utf-8")
    _supervised(measurement, [str(version.path), str(snapshot.path), str(folder)], stopping)
    metrics, rows = read_metrics(folder), read_predictions(folder)

    def store() -> None:
        with transaction.atomic():
            predictions_add(version=version, rows=rows)
            if not measurement.finish(metrics=metrics):
                raise Stopped("not ours")

    patiently(store)


def _supervised(measurement: Remeasurement, arguments: list[str], stopping: Callable[[], bool]) -> None:
    """Run the child. Raises Stopped, and JobFailed if it did not end well."""
    command = [*settings.MEASURE_COMMAND, *arguments]
    bases = base_linked(measurement.version)
    status = supervise_job(
        measurement,
        command,
        folder=measurement.folder,
        stopping=stopping,
        base_folders=bases,
        endpoint=measurement.version.run.config["base_model"],
    )
    if status != 0:
        lines = log_tail(measurement.folder, 12)
        refused = [line.removeprefix("refused: ") for line in lines if line.startswith("refused: ")]
        if refused:
            raise JobFailed(f"This model can't be measured again: {refused[-1]}.")
        if status in (-9, 137):
            raise JobFailed("It was killed (signal 9): most likely the worker's machine ran out of memory.")
        raise JobFailed(f"Measuring ended with status {status}.\n" + "\n".join(lines))
