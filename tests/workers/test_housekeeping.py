"""Leftovers of killed jobs are swept; what a living job writes, and what is young, stays."""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.utils import timezone

from webapp.accounts.models import User
from webapp.celery import app
from webapp.corpus.counters import QueueCounter
from webapp.corpus.models import Import, Project
from webapp.jobs import State
from webapp.labels.counters import drift, recount
from webapp.ratings.models import Uncounted
from webapp.snapshots.models import Export
from webapp.training.models import ModelExport, ModelVersion, TrainingRun
from workers import housekeeping, tasks

pytestmark = pytest.mark.django_db


def left(path: Path, *, hours: float = 2.0, name: str = "spool") -> Path:
    """A folder with a file in it that was last written so long ago."""
    path.mkdir(parents=True)
    (path / name).write_text("half")
    for each in (path / name, path):
        os.utime(each, (time.time() - hours * 3600,) * 2)
    return path


@pytest.fixture
def ended_and_living(
    labelled: Project, make_run: Callable[..., TrainingRun], admin: User, data_dir: Path
) -> tuple[list[Path], list[Path]]:
    """Leftovers of jobs that ended, and the same kinds of files of jobs that live."""
    gone, kept = [], []
    for state, files in ((State.LOST, gone), (State.RUNNING, kept)):
        row = Import.objects.create(project=labelled, folder=f"imports/{state}", state=state)
        files.append(left(data_dir / row.folder / "tmpabc"))
        export = Export.objects.create(project=labelled, state=state)
        files.append(left(data_dir / "exports" / f".{export.pk}-xyz"))
        run = make_run(labelled, state=State.DONE, overrides={"seed": len(kept)})
        version = ModelVersion.objects.create(
            project=labelled, run=run, method="oprm", number=run.pk, kind="ordinal", digest="d" * 64
        )
        packed = ModelExport.objects.create(version=version, format="caliper", state=state, created_by=admin)
        files.append(left(packed.folder))
        (packed.folder.parent / f"{packed.pk}.zip").write_text("an archive")
        kept.append(packed.folder.parent / f"{packed.pk}.zip")
        kept.append(left(run.folder / "model"))
    gone.append(left(data_dir / "runs" / str(run.pk) / "checkpoint"))
    lost = make_run(labelled, "bt", state=State.LOST)
    kept.append(left(lost.folder / "checkpoint"))
    gone.append(left(data_dir / "imports" / "upload-without-a-row"))
    kept.append(left(data_dir / "imports" / "upload-that-goes-on", hours=0.1))
    kept.append(left(data_dir / "imports" / "lost" / "files", name="a.jsonl"))
    return gone, kept


def test_what_ended_goes_and_what_lives_stays(ended_and_living: tuple[list[Path], list[Path]]) -> None:
    gone, kept = ended_and_living
    assert housekeeping.leftovers_sweep() == len(gone)
    assert [path for path in gone if path.exists()] == []
    assert [path for path in kept if not path.exists()] == []
    assert housekeeping.leftovers_sweep() == 0


def test_a_snapshot_that_is_being_taken(labelled: Project, data_dir: Path) -> None:
    """Its folder has no job's name: it stays while a job lives that began before its last write."""
    old, young = (
        left(data_dir / "snapshots" / ".taking-1", hours=5),
        left(data_dir / "snapshots" / ".taking-2"),
    )
    began = timezone.now() - timedelta(hours=3)
    export = Export.objects.create(project=labelled, state=State.RUNNING, started_at=began)
    housekeeping.leftovers_sweep()
    assert (old.exists(), young.exists()) == (False, True)
    Export.objects.filter(pk=export.pk).update(state=State.LOST)
    housekeeping.leftovers_sweep()
    assert not young.exists()


def test_beat_asks_for_it_on_the_queue_of_housekeeping() -> None:
    for name in ("housekeep", "sessions_clear"):
        entry = app.conf.beat_schedule[name]
        assert entry["options"]["queue"] == "housekeeping"
        assert entry["task"] in app.tasks


def test_wrong_numbers_of_the_queue_are_told_and_mended(
    labelled: Project, caplog: pytest.LogCaptureFixture
) -> None:
    recount(labelled)
    QueueCounter.objects.filter(project=labelled, name="judged").update(value=1000)
    with caplog.at_level("WARNING"):
        tasks.counters_check()
    assert f"counters of {labelled.slug}: The counter “judged” of person" in caplog.text
    assert drift(labelled) == []


def test_tallies_are_made_by_one_process_at_a_time(labelled: Project) -> None:
    assert Uncounted.objects.exists()
    cache.set("tallies", True)
    tasks.tallies_make()
    assert Uncounted.objects.exists()
    cache.delete("tallies")
    tasks.tallies_make()
    assert not Uncounted.objects.exists()
    assert cache.get("tallies") is None


def test_sessions_that_ran_out_are_cleared() -> None:
    for key, days in (("old", -1), ("new", 1)):
        Session.objects.create(
            session_key=key, session_data="", expire_date=timezone.now() + timedelta(days=days)
        )
    tasks.sessions_clear()
    assert [session.pk for session in Session.objects.all()] == ["new"]
