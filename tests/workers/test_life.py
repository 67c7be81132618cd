"""A job whose process is killed or halted is lost within the configured time whatever its phase; a living one never."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.workers.conftest import FAKE, database_url
from webapp import life
from webapp.corpus.models import Import, Project
from webapp.jobs import Job, State
from webapp.snapshots.models import Export
from webapp.training.models import TrainingRun
from workers import housekeeping, tasks

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

LOST_AFTER = 2
Start = Callable[[str, Job, str], "subprocess.Popen[str]"]


@pytest.fixture
def start(settings: Any, data_dir: Path, private_redis: str, tmp_path: Path) -> Iterator[Start]:
    """start("import_file", row, "module:name") does the job in a process that halts where the function is called."""
    settings.JOB_LOST_AFTER_SECONDS = LOST_AFTER
    settings.REDIS_URL = private_redis
    started: list[subprocess.Popen[str]] = []

    def begin(task: str, row: Job, place: str) -> "subprocess.Popen[str]":
        environment = {
            **os.environ,
            "DATABASE_URL": database_url(),
            "CALIPER_DATA_DIR": str(data_dir),
            "CALIPER_JOB_LOST_AFTER_SECONDS": str(LOST_AFTER),
            "CALIPER_TRAIN_COMMAND": shlex.join([sys.executable, str(FAKE), "ok"]),
            "REDIS_URL": private_redis,
        }
        with (tmp_path / f"job-{len(started)}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.workers.paused_job", task, str(row.pk), *place.split(":")],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def there(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"


def state(row: Job) -> str:
    return type(row)._default_manager.get(pk=row.pk).state


def until_lost(*rows: Job) -> float:
    began = time.monotonic()
    while any(state(row) != State.LOST for row in rows):
        assert time.monotonic() - began < 20, [state(row) for row in rows]
        housekeeping.jobs_reap()
        time.sleep(0.2)
    return time.monotonic() - began


def import_of(project: Project, *, count: int = 1) -> Import:
    row = Import.objects.create(
        project=project, file_name="a.jsonl", folder=f"imports/{project.slug}", dry_run=False
    )
    folder = row.error_file().parent
    folder.mkdir(parents=True)
    lines = [{"type": "prompt", "id": f"new-{n}", "text": "Why?"} for n in range(count)]
    (folder / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return row


def test_jobs_that_read_or_pack(labelled: Project, make_run: Any, start: Start) -> None:
    """An import that reads, an export in its long read, one that zips, a run that takes its snapshot."""
    reading = import_of(labelled)
    exporting, zipping = Export.objects.create(project=labelled), Export.objects.create(project=labelled)
    run = make_run(labelled)
    processes = [
        start("import_file", reading, "webapp.importing.services:spool_records"),
        start("export_file", exporting, "webapp.snapshots.exporting:agreement_lines"),
        start("export_file", zipping, "webapp.snapshots.exporting:zip_folder"),
        start("train_run", run, "workers.runs:snapshot_take"),
    ]
    for process in processes:
        there(process)
    time.sleep(LOST_AFTER + 1)
    assert housekeeping.jobs_reap() == 0, "they live"
    # One is halted, as by a machine that hangs; the others are killed.
    processes[0].send_signal(signal.SIGSTOP)
    for process in processes[1:]:
        process.kill()
    assert until_lost(reading, exporting, zipping, run) < LOST_AFTER + 3
    assert not life.life_file(exporting).exists()


def test_an_import_that_writes(labelled: Project, start: Start) -> None:
    writing = import_of(labelled)
    process = start("import_file", writing, "webapp.importing.labels:LabelWriter.write_counters")
    there(process)
    time.sleep(LOST_AFTER + 1)
    tasks.tick()  # finds the lock taken, and goes on
    assert state(writing) == State.RUNNING
    process.kill()
    assert until_lost(writing) < LOST_AFTER + 3
    housekeeping.imports_settle()  # as the same tick does: on SQLite it wrote in batches
    assert not labelled.prompts.filter(external_id="new-0").exists()


def test_a_run_that_stores_its_predictions(labelled: Project, make_run: Any, start: Start) -> None:
    run: TrainingRun = make_run(labelled)
    process = start("train_run", run, "workers.runs:predictions_store")
    there(process)
    time.sleep(LOST_AFTER + 1)
    housekeeping.jobs_reap()
    assert state(run) == State.RUNNING
    process.kill()
    assert until_lost(run) < LOST_AFTER + 3


def test_a_cancel_while_it_writes_works_within_seconds(labelled: Project, start: Start) -> None:
    """Also where the job's own transaction keeps the row from being changed."""
    row = import_of(labelled, count=3)
    process = start("import_file", row, "webapp.importing.services:_walk")
    there(process)
    began = time.monotonic()
    assert Import.objects.get(pk=row.pk).request_cancel()
    assert process.wait(10) == 0
    assert time.monotonic() - began < 5
    assert state(row) == State.CANCELLED
    assert not labelled.prompts.filter(external_id="new-0").exists()
