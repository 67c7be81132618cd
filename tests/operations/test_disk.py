"""The operator's page of where the bytes are."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from webapp.accounts.models import User
from webapp.corpus.models import Project
from webapp.operations.disk import disk_measure, disk_report


@pytest.fixture
def measured(installation: Project, data_dir: Path) -> dict[str, Any]:
    (data_dir / "snapshots" / ("5" * 64) / "responses.parquet").write_bytes(os.urandom(40_000))
    model = next(data_dir.glob("runs/*/model"))
    (model / "model.safetensors").write_bytes(os.urandom(400_000))
    return disk_measure()


def test_bytes_stand_where_they_are_and_links_count_once(measured: dict[str, Any], data_dir: Path) -> None:
    parts = measured["parts"]
    assert 40_000 <= parts["snapshots"]["bytes"] < 60_000
    assert 400_000 <= parts["runs"]["bytes"] < 420_000, "the snapshot's file is not counted again"
    assert parts["runs"]["files"] == 2
    assert parts["others"]["files"] >= 5
    (row,) = measured["projects"]
    assert (row["name"], row["runs"]) == ("Capitals", 1)
    assert row["model"] == row["bytes"] == parts["runs"]["bytes"]
    assert measured["database"] > 10_000
    assert 0 < measured["free"] <= measured["total"]
    assert disk_report() == measured


def test_what_packing_away_would_free(measured: dict[str, Any], settings: Any, installation: Project) -> None:
    assert [row["keep"] for row in measured["retention"]] == [1, 3, 5, 10]
    settings.KEEP_VERSIONS = 2
    assert [row["keep"] for row in disk_measure()["retention"]] == [1, 2, 3, 5, 10]
    assert {row["bytes"] for row in measured["retention"]} == {0}, "the only version serves"
    version = installation.versions.get()
    type(version).objects.update(is_serving=False)
    version.pk, version.number, version.run = None, 2, installation.runs.get(method="bt")
    version.save()
    assert disk_measure()["retention"][0]["bytes"] == measured["projects"][0]["model"]


def test_only_staff_see_it(
    measured: dict[str, Any],
    annotator: User,
    admin: User,
    researcher: User,
    stranger: User,
    make_user: Callable[..., User],
    client_of: Callable[[User], Client],
) -> None:
    for person in (annotator, admin, researcher, stranger):
        client = client_of(person)
        assert client.get("/disk/").status_code == 403
        assert 'href="/disk/"' not in client.get("/").content.decode()
    assert Client().get("/disk/").status_code == 302
    root = make_user("root", is_superuser=True, is_staff=True)
    page = client_of(root).get("/disk/")
    assert page.status_code == 200
    assert 'href="/disk/"' in page.content.decode()
    assert "Capitals" in page.content.decode()


def test_staff_are_not_told_other_projects_names(
    measured: dict[str, Any], make_user: Callable[..., User], client_of: Callable[[User], Client]
) -> None:
    page = client_of(make_user("stef", is_staff=True)).get("/disk/").content.decode()
    assert "1 other project" in page
    assert "Capitals" not in page


def test_before_anything_was_measured(
    make_user: Callable[..., User], client_of: Callable[[User], Client]
) -> None:
    page = client_of(make_user("root", is_staff=True)).get("/disk/").content.decode()
    assert "Nothing has been measured yet" in page
    assert "whether beat and the workers run" in page
