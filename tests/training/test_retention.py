"""Versions that never served and are not among the newest lose their weights, and nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from webapp.accounts.models import User
from webapp.corpus.models import Project
from webapp.jobs import State
from webapp.keeping import files_held
from webapp.snapshots.models import Snapshot
from webapp.training.models import ModelExport, ModelVersion, TrainingRun
from webapp.training.retention import version_pack, versions_pack, versions_packable
from webapp.training.services import VersionRefused, finished_twin, version_promote
from workers import housekeeping

Make = Callable[..., ModelVersion]


@pytest.fixture
def versions(labelled: Project, make_version: Make) -> list[ModelVersion]:
    """Five versions with weights; v1 served once and v4 serves."""
    made = []
    for number in range(1, 6):
        version = make_version(labelled, number, is_serving=number == 4)
        if number in (1, 4):
            ModelVersion.objects.filter(pk=version.pk).update(promoted_at=version.created_at)
        for name in ("model/model.safetensors", "predictions.parquet", "metrics.json"):
            path = version.run.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("content")
        made.append(version)
    return made


def numbers(found: list[ModelVersion]) -> list[int]:
    return sorted(version.number for version in found)


def test_which_may_go(versions: list[ModelVersion], labelled: Project, make_run: Any, admin: User) -> None:
    assert numbers(versions_packable(keep=1)) == [2, 3]
    assert numbers(versions_packable(keep=3)) == [2]
    assert numbers(versions_packable(keep=4)) == []
    # One that another run starts from, by its name or by its path; one that is being packed for download.
    older = make_run(labelled, "bt")
    older.config["base_model"] = str(versions[1].path)  # as versions before 0.3 took it
    older.save()
    assert numbers(versions_packable(keep=1)) == [3]
    export = ModelExport.objects.create(version=versions[2], format="caliper", created_by=admin)
    assert numbers(versions_packable(keep=1)) == []
    ModelExport.objects.filter(pk=export.pk).update(state=State.DONE)
    assert numbers(versions_packable(keep=1)) == [3]
    run = versions[4].run
    run.config["base_model"] = "version:oprm-3"
    run.save()
    assert numbers(versions_packable(keep=1)) == []


def test_nothing_goes_by_default(versions: list[ModelVersion], settings: Any) -> None:
    assert settings.KEEP_VERSIONS == 0
    housekeeping.housekeep()
    assert all(version.path.is_dir() for version in versions)


def test_weights_go_and_what_was_measured_stays(
    versions: list[ModelVersion], settings: Any, admin: User
) -> None:
    export = ModelExport.objects.create(
        version=versions[1], format="caliper", created_by=admin, state=State.DONE
    )
    export.archive.parent.mkdir(parents=True)
    export.archive.write_text("zip")
    settings.KEEP_VERSIONS = 1
    housekeeping.housekeep()
    for version in versions:
        version.refresh_from_db()
        gone = version.number in (2, 3)
        assert version.is_packed is gone
        assert version.path.exists() is not gone
        assert (version.run.folder / "predictions.parquet").exists()
        assert (version.run.folder / "metrics.json").exists()
    assert not export.archive.exists()
    assert versions_pack(keep=1) == 0


def test_a_packed_version_is_trained_again(versions: list[ModelVersion], make_run: Any) -> None:
    snapshot = Snapshot.objects.create(project=versions[1].project, digest="5" * 64, counts={})
    TrainingRun.objects.filter(pk=versions[1].run_id).update(snapshot=snapshot)
    run = make_run(versions[1].project, snapshot=snapshot)
    assert finished_twin(run) == versions[1].run
    versions_pack(keep=1)
    assert finished_twin(run) is None


def test_packing_and_promoting_exclude_each_other(versions: list[ModelVersion]) -> None:
    assert version_promote(version=versions[1])
    assert not version_pack(version=versions[1])
    assert version_pack(version=versions[2])
    with pytest.raises(
        VersionRefused, match=r"oprm v3 can't serve: its weights were packed away. Train it again"
    ):
        version_promote(version=versions[2])
    assert ModelVersion.objects.get(is_serving=True) == versions[1]


def test_a_backup_keeps_weights_until_it_is_done(versions: list[ModelVersion], settings: Any) -> None:
    settings.KEEP_VERSIONS = 1
    with files_held(shared=True):
        housekeeping.housekeep()
    assert not ModelVersion.objects.filter(packed_at__isnull=False).exists()


def test_a_removal_that_broke_off_is_finished(versions: list[ModelVersion]) -> None:
    assert version_pack(version=versions[1])
    assert versions[1].path.is_dir()
    versions_pack(keep=5)
    assert not versions[1].path.exists()


def test_pages_say_it_and_the_remedy(
    versions: list[ModelVersion], admin: User, client_of: Callable[[User], Client], data_dir: Path
) -> None:
    versions_pack(keep=1)
    client = client_of(admin)
    page = client.get(f"/p/capitals/runs/{versions[1].run_id}/").content.decode()
    assert "Packed away" in page
    assert "again with the settings below" in page
    assert "Let v2 serve" not in page
    assert "Pack it" not in page
    listed = client.get("/p/capitals/runs/").content.decode()
    assert listed.count("packed away") == 2
    assert "Let v2 serve" not in listed
    assert "Let v5 serve" in listed
    answer = client.post(f"/p/capitals/versions/{versions[1].pk}/promote/", follow=True).content.decode()
    assert "oprm v2 can&#x27;t serve: its weights were packed away. Train it again." in answer


def test_a_training_that_divides_otherwise_is_no_twin(versions: list[ModelVersion], make_run: Any) -> None:
    """As those of before the project's salt."""
    project = versions[1].project
    snapshot = Snapshot.objects.create(project=project, digest="5" * 64, counts={})
    TrainingRun.objects.filter(pk=versions[1].run_id).update(snapshot=snapshot)
    project.split_salt = "another"
    project.save()
    assert finished_twin(make_run(project, snapshot=snapshot)) is None
