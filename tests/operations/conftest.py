"""An installation with something in every table and every kind of file."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ratings.votes import trajectories_of
from tests.training.conftest import judge, labelled, make_run, make_version  # noqa: F401 - fixtures
from webapp.accounts.models import User
from webapp.benchmarks.models import EvaluationSet
from webapp.corpus.models import Import, Pair, Project, Response
from webapp.jobs import State
from webapp.ratings.models import Prediction
from webapp.ratings.services import votes_store
from webapp.snapshots.models import Snapshot
from webapp.training.models import ModelVersion, TrainingRun

# Numbers that PostgreSQL's jsonb writes in its own way, a key order that it forgets, and letters of every kind.
HARD = {
    "z": 1e22,
    "a": [-0.0, 1e-7, 0.1, 3, 1.0, True, None],
    "é": "e+ \U0001f600 \\u0000",
    "n": {"b": 1, "a": 2},
}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def installation(
    labelled: Project,  # noqa: F811
    make_version: Callable[..., ModelVersion],  # noqa: F811
    make_run: Callable[..., TrainingRun],  # noqa: F811
    admin: User,
    data_dir: Path,
) -> Project:
    version = make_version(labelled, 1, is_serving=True)
    response = Response.objects.of(labelled).first()
    assert response is not None
    response.metadata = HARD
    response.text = "Tab\tline\nback\\slash \\N “quotes”"
    response.save()
    Prediction.objects.create(
        version=version, response=response, score=5.5, p=[1 / 9] * 9, percentile=50.0, split="train"
    )
    Prediction.objects.create(
        version=version, response=labelled.responses.last(), score=1e17, percentile=50.0, split="train"
    )
    pair = Pair.objects.of(labelled).with_texts()[0]
    a, b = pair.response_a.external_id, pair.response_b.external_id
    said = trajectories_of({a: [7, None], b: [3, None]}, {a: response.text})
    assert votes_store(version=version, **said) == 4
    snapshot = Snapshot.objects.create(project=labelled, digest="5" * 64, counts={"judgements": 20})
    TrainingRun.objects.filter(pk=version.run_id).update(snapshot=snapshot)
    make_run(labelled, "bt", state=State.RUNNING, heartbeat_at=version.created_at)
    Import.objects.create(project=labelled, file_name="a.jsonl", folder="imports/ab", state=State.DONE)
    measured = EvaluationSet.objects.create(
        project=labelled, name="Ours", folder="evaluation-sets/cd", files=["b.jsonl"], state=State.DONE
    )
    measured.measurements.create(version=version, state=State.DONE, result={"lines": [{"value": 1e16}]})
    write(data_dir / "evaluation-sets" / "cd" / "b.jsonl", "{}")
    parquet = write(snapshot.path / "responses.parquet", "the labels")
    write(version.path / "model.safetensors", "the weights")
    (version.run.folder / "snapshot").mkdir()
    os.link(parquet, version.run.folder / "snapshot" / "responses.parquet")
    write(data_dir / "imports" / "ab" / "a.jsonl", "{}")
    write(data_dir / "of-a-later-version" / "file", "kept as well")
    # What no backup holds: secrets, what is made anew, and work that isn't done.
    for name in ("secret_key", "sign-ins.txt", "logs/web.log", "imports/ab/tmpx/spool", "snapshots/.taking-1/a",
                 "evaluation-sets/.measuring-1/log.txt",
                 "exports/.7-x/a", "exports/7.part", "celerybeat-schedule.db", "static/base.css"):  # fmt: skip
        write(data_dir / name, name)
    return labelled


@pytest.fixture
def elsewhere(tmp_path: Path, settings: Any) -> Callable[[str], Path]:
    """elsewhere("b") goes on with another, empty data folder."""

    def go(name: str) -> Path:
        settings.DATA_DIR = tmp_path / name
        settings.STATIC_ROOT = settings.DATA_DIR / "static"
        settings.DATA_DIR.mkdir()
        return settings.DATA_DIR

    return go
