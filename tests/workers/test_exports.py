"""Models as files to take away: what lies in the archive, and how a packing can fail."""

import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from webapp.accounts.models import User
from webapp.corpus.models import Project
from webapp.jobs import State
from webapp.training.models import ModelExport, ModelVersion, TrainingRun
from workers import exports, tasks

CONVERT = """
import json, pathlib, sys
model, out, _, metrics, *options = sys.argv[1:]
assert "--title=Ordinal (OPRM) v1 of Capitals" in options
assert "annotators" not in json.loads(pathlib.Path(metrics).read_text())
out = pathlib.Path(out)
out.mkdir()
(out / "README.md").write_text("a card")
(out / "model.safetensors").write_bytes((pathlib.Path(model) / "model.safetensors").read_bytes())
"""
REFUSE = "import sys; sys.exit('refused: this one has a hidden layer')"
CRASH = "print('thinking'); raise SystemExit(3)"


@pytest.fixture
def version(
    labelled: Project, make_run: Callable[..., TrainingRun], trained: Callable[..., TrainingRun]
) -> ModelVersion:
    return trained(make_run(labelled)).version


@pytest.fixture
def export(version: ModelVersion, researcher: User) -> ModelExport:
    return ModelExport.objects.create(version=version, format="caliper", created_by=researcher)


def program(settings: Any, code: str) -> None:
    settings.MODEL_EXPORT_COMMAND = [sys.executable, "-c", code]


def done(export: ModelExport) -> ModelExport:
    exports.export_model(export.pk)
    export.refresh_from_db()
    return export


def contents(export: ModelExport) -> dict[str, bytes]:
    with zipfile.ZipFile(export.archive) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


@pytest.mark.one_database
def test_the_caliper_format_has_model_card_and_metrics(export: ModelExport, version: ModelVersion) -> None:
    done(export)
    assert (export.state, export.error) == (State.DONE, "")
    files = contents(export)
    root = "capitals-oprm-v1-caliper"
    assert set(files) == {
        f"{root}/{name}" for name in ("README.md", "metrics.json", "model.safetensors", "reward_config.json")
    }
    assert files[f"{root}/model.safetensors"] == b"weights"
    card = files[f"{root}/README.md"].decode()
    for words in (
        "# Ordinal (OPRM) v1 of Capitals",
        version.digest,
        f"run {version.run_id}",
        "| Pair accuracy | 0.800 [0.750, 0.850] | 60 |",
        "A monotone recalibration of the rating distribution",
        "| Calibration error (ECE) | 0.093 |",
        "**Failed its suite of injected text, empty answers, padding and order:**",
        "An empty answer lands in bad only 25% of 12 times",
    ):
        assert words in card
    assert [file["name"] for file in export.report["files"]] == sorted(
        name.partition("/")[2] for name in files
    )
    assert export.report["archive_bytes"] == export.archive.stat().st_size
    assert not export.folder.exists()


@pytest.mark.one_database
def test_estimates_of_people_stay_here(export: ModelExport, version: ModelVersion) -> None:
    assert version.metrics["annotators"]
    files = contents(done(export))
    assert not any(b"judge-" in content for content in files.values())
    metrics = json.loads(files["capitals-oprm-v1-caliper/metrics.json"])
    assert metrics["held_out"]["pairs"]["n"] == 60


def test_for_transformers_a_child_converts(export: ModelExport, settings: Any) -> None:
    ModelExport.objects.update(format="transformers")
    program(settings, CONVERT)
    done(export)
    assert (export.state, export.error) == (State.DONE, "")
    assert set(contents(export)) == {
        f"capitals-oprm-v1-transformers/{name}" for name in ("README.md", "model.safetensors")
    }


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (REFUSE, "can't be converted: this one has a hidden layer. The Caliper format is there"),
        (CRASH, "ended with status 3.\nthinking"),
        ("import os; os.kill(os.getpid(), 9)", "ran out of memory"),
    ],
)
def test_a_conversion_that_fails_says_why(export: ModelExport, settings: Any, code: str, text: str) -> None:
    ModelExport.objects.update(format="transformers")
    program(settings, code)
    done(export)
    assert export.state == State.FAILED
    assert text in export.error
    assert not export.archive.exists()
    assert not export.folder.exists()


def test_a_model_that_is_gone_or_damaged_is_not_packed(export: ModelExport, version: ModelVersion) -> None:
    weights = version.path / "model.safetensors"
    weights.write_bytes(b"weihgts")
    done(export)
    assert export.state == State.FAILED
    assert "damaged" in export.error
    assert "Restore it from a backup" in export.error
    version.path.rename(version.path.with_name("elsewhere"))
    assert export.requeue()
    assert "files are gone from the disk" in done(export).error
    assert str(version.path.parent) not in export.error


def test_a_worker_that_shuts_down_hands_it_back(
    export: ModelExport, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    monkeypatch.setattr("webapp.jobs.enqueue", lambda task, pk, queue: sent.append((task, pk)))
    ModelExport.objects.update(format="transformers")
    program(settings, "import time; time.sleep(60)")
    exports.export_model(export.pk, stopping=lambda: True)
    export.refresh_from_db()
    assert export.state == State.QUEUED
    assert sent == [("workers.tasks.export_model", export.pk)]


def test_messages_that_come_twice_or_for_nothing(export: ModelExport) -> None:
    tasks.export_model(export.pk)
    export.refresh_from_db()
    finished_at = export.finished_at
    assert export.state == State.DONE
    tasks.export_model(export.pk)
    tasks.export_model(10**9)
    export.refresh_from_db()
    assert export.finished_at == finished_at


@pytest.mark.one_database
def test_weights_are_not_compressed(export: ModelExport, version: ModelVersion) -> None:
    with zipfile.ZipFile(done(export).archive) as zipped:
        kinds = {Path(entry.filename).suffix: entry.compress_type for entry in zipped.infolist()}
    assert (kinds[".safetensors"], kinds[".md"]) == (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
