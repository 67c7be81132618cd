"""Predictions as an export: who believes what of which response, beside people's levels."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from tests.ratings.votes import voting_version
from webapp.accounts.models import User
from webapp.corpus.models import Project, Prompt, Response
from webapp.labels.models import QualityLabel
from webapp.ratings.exporting import COLUMNS
from webapp.snapshots.exporting import ExportRefused, export_run, export_write
from webapp.snapshots.models import Export
from webapp.training.models import ModelVersion


@pytest.fixture
def predicted(
    project: Project, make_prompt: Callable[..., Prompt], make_version: Callable[..., ModelVersion],
    rate: Callable[..., QualityLabel], make_user: Callable[..., User],
) -> Project:  # fmt: skip
    """Two responses rated 7 and 3 by oprm-1, which serves; bt-2 scores the first alone and doesn't."""
    make_prompt(project, "p1", ["=1+1", "NA"], group="maths")
    first, second = Response.objects.of(project).order_by("external_id")
    make_version(project, {first: 7.0, second: 3.0}, split="held_out")
    make_version(project, {first: -0.5}, method="bt", is_serving=False, split="train")
    kim, lee = make_user("kim"), make_user("lee")
    rate(first, kim, "good")
    rate(first, lee, "normal")
    rate(second, lee, "bad")
    return project


def written(project: Project, folder: Path, file_type: str = "jsonl", **more: Any) -> list[dict[str, Any]]:
    export_write(
        project=project,
        format="predictions",
        file_type=file_type,
        aggregation="majority",
        folder=folder,
        **more,
    )
    return [json.loads(line) for line in (folder / "data" / "train.jsonl").read_text().splitlines()]


def test_the_serving_versions_predictions_stand_beside_peoples_levels(
    predicted: Project, tmp_path: Path
) -> None:
    first, second = written(predicted, tmp_path / "out")
    assert list(first) == list(COLUMNS)
    assert (first["response_id"], first["response"], first["group"]) == ("p1-r1", "=1+1", "maths")
    assert (first["version"], first["split"], first["percentile"]) == ("oprm-1", "held_out", 100.0)
    assert sum(first[f"p{rating}"] for rating in range(1, 10)) == pytest.approx(1)
    assert first["expected"] == first["score"] == pytest.approx(7, abs=0.1)
    assert [first[level] for level in ("bad", "normal", "good")] == [0, 1, 1]
    assert [second[level] for level in ("bad", "normal", "good")] == [1, 0, 0]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`oprm-1` is oprm v1 with the digest" in card
    assert "held_out" in card


def test_a_version_can_be_named_and_what_it_lacks_is_counted(predicted: Project, tmp_path: Path) -> None:
    (row,) = written(predicted, tmp_path / "out", version="bt-2")
    assert (row["version"], row["score"], row["p1"], row["expected"]) == ("bt-2", -0.5, None, None)
    assert row["split"] == "train"
    assert "1 × responses for which the version has no prediction" in (
        (tmp_path / "out" / "README.md").read_text()
    )


def test_votes_stand_beside_the_probabilities_counted_from_them(predicted: Project, tmp_path: Path) -> None:
    first, second = Response.objects.of(predicted).order_by("external_id")
    version = voting_version(predicted, {first: [9, 7, None], second: [3, 3, None]}, is_serving=False)
    rows = written(predicted, tmp_path / "out", version=version.address)
    assert [row["votes"] for row in rows] == ["7 9", "3 3"]
    assert rows[0]["p9"] == pytest.approx((1 + 1 / 9) / 3)
    assert [row["votes"] for row in written(predicted, tmp_path / "plain")] == [None, None]


@pytest.mark.parametrize("name", ["oprm-9", "oprm", "-1", "bt-x"])
def test_unknown_versions_are_refused_with_the_known_ones(
    predicted: Project, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ExportRefused, match=r"bt-2, oprm-1"):
        written(predicted, tmp_path / "out", version=name)


def test_without_a_version_there_is_nothing_to_export(project: Project, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="serves yet"):
        call_command("export_data", project="capitals", format="predictions", out=tmp_path / "out")


@pytest.mark.parametrize("file_type", ["parquet", "jsonl", "csv"])
def test_datasets_loads_them(predicted: Project, tmp_path: Path, monkeypatch: Any, file_type: str) -> None:
    import datasets
    from datasets import config

    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    folder = tmp_path / "out"
    call_command("export_data", project="capitals", format="predictions", out=folder, file_type=file_type)
    data = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"), split="train")
    assert data["response"][:] == ["=1+1", "NA"]
    assert data["percentile"][:] == [100.0, 0.0]
    assert data["good"][:] == [1, 0]


def test_the_page_offers_the_versions(
    predicted: Project, researcher: User, client_of: Callable[[User], Client], monkeypatch: Any
) -> None:
    monkeypatch.setattr("webapp.jobs.enqueue", lambda task, pk, queue: None)
    client = client_of(researcher)
    page = client.get("/p/capitals/exports/").content.decode()
    assert "oprm v1 (serves)" in page
    asked = {"format": "predictions", "file_type": "csv", "aggregation": "majority", "version": "bt-2"}
    assert client.post("/p/capitals/exports/", asked).status_code == 302
    export = Export.objects.get()
    export_run(export)
    export.refresh_from_db()
    assert (export.state, export.report["rows"], export.version) == ("done", 1, "bt-2")
    assert "bt-2" in client.get("/p/capitals/exports/").content.decode()
    asked["version"] = "oprm-9"
    assert client.post("/p/capitals/exports/", asked).status_code == 400
