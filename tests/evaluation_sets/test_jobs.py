"""Sets being read and versions being measured: every end of the two jobs."""

from collections.abc import Callable
from typing import Any

import pytest

from webapp.benchmarks.models import EvaluationSet, Measurement
from webapp.benchmarks.services import measurement_start, measurements_due, set_delete
from webapp.corpus.models import Project
from webapp.jobs import State
from webapp.snapshots.services import snapshot_take
from webapp.training.models import ModelVersion
from workers import housekeeping, measurements

from .conftest import BEST, PAIRS

Add = Callable[..., EvaluationSet]
Measured = Callable[[EvaluationSet, ModelVersion], Measurement]
MakeVersion = Callable[..., ModelVersion]
pytestmark = pytest.mark.usefixtures("trusted")


def test_a_set_is_read(add: Add, sent: list[Any], django_capture_on_commit_callbacks: Any) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        row = add(read=False)
    assert sent == [("workers.tasks.read_set", row.pk, "default")]
    measurements.read_set(row.pk)
    row.refresh_from_db()
    assert (row.state, row.format, row.items, row.responses, row.refused) == (
        State.DONE,
        "preference",
        3,
        6,
        1,
    )
    assert row.subsets == {"easy": 2, "hard": 1}
    assert row.refusals == [
        "a.jsonl line 4: chosen and rejected must both be texts, or both lists of messages"
    ]
    assert [path.read_bytes() for path in row.paths] == [PAIRS]


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (b"[" * 100_000, "a.json", "a.json is nested too deeply"),
        (b"\x1f\x8bno", "a.jsonl.gz", "a.jsonl.gz can't be read"),
        (b'{"text": "x"}', "a.jsonl", "no benchmark has the columns 'text'"),
    ],
)
def test_hostile_files_are_refused_in_words(content: bytes, name: str, words: str, add: Add) -> None:
    row = add(content=content, name=name)
    assert row.state == State.FAILED
    assert words in row.error
    assert str(row.path.parent) not in row.error


def test_files_that_are_gone(add: Add) -> None:
    row = add(read=False)
    row.paths[0].unlink()
    measurements.read_set(row.pk)
    row.refresh_from_db()
    assert "gone from the disk" in row.error


def test_a_version_is_measured(
    add: Add, measured: Measured, project: Project, make_version: MakeVersion
) -> None:
    """The longer one is right for two of three."""
    version = make_version(project, 1)
    (version.run.folder / "snapshot").mkdir()
    one = measured(add(), version)
    assert (one.state, one.error, one.step, one.near_duplicates) == (State.DONE, "", 6, 1)
    assert one.overall == {
        "value": pytest.approx(2 / 3), "low": 0, "high": 1, "n": 3, "length": pytest.approx(2 / 3),
    }  # fmt: skip
    lines = {line["name"]: line["value"] for line in one.result["lines"]}
    assert lines == {"overall": pytest.approx(2 / 3), "easy": 1, "hard": 0}
    assert "refusals" not in one.result
    assert not one.folder.exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; print('refused: no room'); sys.exit(2)", "It can't be measured: no room."),
        ("print('hm'); raise SystemExit(3)", "It ended with status 3.\nhm"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ran out of memory"),
    ],
)
def test_a_measurement_that_fails(
    code: str,
    words: str,
    add: Add,
    measured: Measured,
    child: Any,
    project: Project,
    make_version: MakeVersion,
) -> None:
    child(code)
    one = measured(add(), make_version(project, 1))
    assert one.state == State.FAILED
    assert words in one.error
    again = measurement_start(evaluation_set=one.evaluation_set, version=one.version)
    again.refresh_from_db()
    assert (again.pk, again.state) == (one.pk, State.QUEUED)


def test_a_damaged_model_is_not_measured(
    add: Add, measured: Measured, project: Project, make_version: MakeVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    version = make_version(project, 1)
    assert measured(add(), version).state == State.FAILED
    (version.path / "reward_config.json").unlink()
    assert "gone from the disk" in measured(EvaluationSet.objects.get(), version).error


def test_the_serving_and_the_newest_are_measured_by_themselves(
    add: Add, measured: Measured, project: Project, make_version: MakeVersion
) -> None:
    row = add()
    add("Waiting", BEST, read=False)
    assert measurements_due() == []
    old, serving, newest = (make_version(project, n, is_serving=n == 2) for n in (1, 2, 3))
    started = measurements_due()
    assert [(one.version, one.evaluation_set) for one in started] == [(serving, row), (newest, row)]
    assert measurements_due() == []
    Measurement.objects.update(state=State.CANCELLED)
    assert measurements_due() == [], "what somebody cancelled stays so"
    assert old.measurements.count() == 0
    late = measurement_start(evaluation_set=row, version=make_version(project, 4))
    Project.objects.update(archived_at=project.created_at)
    assert measurements_due() == []
    measurements.measure(late.pk)
    late.refresh_from_db()
    assert late.state == State.CANCELLED
    assert {EvaluationSet, Measurement} <= set(housekeeping.JOBS)


def test_nothing_of_a_set_is_in_a_snapshot(labelled: Project, add: Add) -> None:
    before = snapshot_take(project=labelled).digest
    add()
    assert snapshot_take(project=labelled).digest == before


def test_deleting_a_set_takes_its_files_and_figures(
    add: Add, measured: Measured, project: Project, make_version: MakeVersion, admin: Any, data_dir: Any
) -> None:
    row = add()
    measured(row, make_version(project, 1))
    path = row.path
    set_delete(row=row, actor=admin)
    assert not path.exists()
    assert not Measurement.objects.exists()
    (path / "left").mkdir(parents=True)
    (path.parent / ".measuring-7").mkdir()
    left = {found.name for found in housekeeping._of_sets(data_dir)}
    assert left == {path.name, ".measuring-7"}
