"""A backup holds everything, comes back whole or not at all, and is the same from either database."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from tests.instance import own_environment
from tests.run import postgres_url
from webapp.accounts.models import User
from webapp.corpus.models import Project, Response
from webapp.jobs import State
from webapp.keeping import files_held
from webapp.labels.models import Judgement
from webapp.operations import backup as backups
from webapp.operations import tables
from webapp.operations.backup import BackupRefused, backup_make, backup_restore
from webapp.ratings.models import Derived
from webapp.training.models import TrainingRun
from workers import housekeeping

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.django_db


@pytest.fixture
def made(installation: Project, tmp_path: Path, settings: Any) -> Path:
    settings.STATIC_ROOT = settings.DATA_DIR / "static"
    backup_make(folder=tmp_path / "backup")
    return tmp_path / "backup"


def test_it_holds_all_tables_and_files_but_secrets_and_unfinished_work(made: Path) -> None:
    manifest = json.loads((made / "manifest.json").read_text())
    run = TrainingRun.objects.get(version__isnull=False).pk
    assert sorted(manifest["files"]) == [
        "evaluation-sets/cd/b.jsonl",
        "imports/ab/a.jsonl",
        "of-a-later-version/file",
        f"runs/{run}/model/model.safetensors",
        f"runs/{run}/model/reward_config.json",
        f"runs/{run}/snapshot/responses.parquet",
        f"snapshots/{'5' * 64}/responses.parquet",
    ]
    everything = set(connection.introspection.django_table_names(only_existing=True))
    left_out = {"django_content_type", "django_session", "auth_permission", "auth_group_permissions",
                "accounts_user_user_permissions", "accounts_usersession"}  # fmt: skip
    # What follows from other rows is counted anew.
    left_out |= {model._meta.db_table for model in Derived.__subclasses__()}
    assert set(manifest["left_out"]) == left_out
    assert set(manifest["tables"]) == everything - left_out
    assert manifest["tables"]["labels_judgement"]["rows"] == Judgement.objects.count() == 20
    assert made.stat().st_mode & 0o077 == 0, "it holds password hashes"
    twins = [made / "files" / name for name in manifest["files"] if name.endswith("responses.parquet")]
    assert os.path.samefile(*twins), "what is one file under two names takes its space once"


def test_it_comes_back_as_it_was(
    made: Path, installation: Project, elsewhere: Callable[[str], Path], tmp_path: Path
) -> None:
    text, people = Response.objects.of(installation).first().text, User.objects.count()
    User.objects.create_user("made after the backup")
    data = elsewhere("b")
    (data / "secret_key").write_text("its own")
    restored = backup_restore(folder=made, replace=True)
    assert Response.objects.of(installation).first().text == text
    assert User.objects.count() == people
    assert (data / "secret_key").read_text() == "its own"
    again = backup_make(folder=tmp_path / "again")
    assert again.digest == restored.digest
    # The next rows come after the last ones, and a training that ran is lost and can be resumed.
    assert User.objects.create_user("new").pk > people
    run = TrainingRun.objects.get(method="bt")
    TrainingRun.objects.filter(pk=run.pk).update(heartbeat_at="2020-01-01T00:00Z")
    assert housekeeping.jobs_reap() == 1
    run.refresh_from_db()
    assert (run.state, run.can_requeue) == (State.LOST, True)


def test_what_was_there_is_neither_overwritten_nor_lost(
    made: Path, installation: Project, elsewhere: Callable[[str], Path]
) -> None:
    with pytest.raises(BackupRefused, match=r"database is not empty: \w+ has rows.*--replace"):
        backup_restore(folder=made)
    data = elsewhere("b")
    (data / "runs" / "1").mkdir(parents=True)
    (data / "runs" / "1" / "mine").write_text("precious")
    tables.tables_empty()
    with pytest.raises(BackupRefused, match=r"not empty: it has runs/1/mine.*--replace"):
        backup_restore(folder=made)
    backup_restore(folder=made, replace=True)
    (aside,) = data.glob(".replaced-*")
    assert (aside / "runs" / "1" / "mine").read_text() == "precious"


def damage_table(folder: Path) -> None:
    path = folder / "tables" / "labels_judgement.jsonl.gz"
    lines = gzip.decompress(path.read_bytes()).replace(b'"a"', b'"b"', 1)
    path.write_bytes(gzip.compress(lines))


def edit(folder: Path, change: Callable[[dict[str, Any]], None], *, seal: bool = True) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    if seal:
        manifest["digest"] = backups.content_digest(manifest["tables"], manifest["files"])
    (folder / "manifest.json").write_text(json.dumps(manifest))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a folder of something else": (lambda folder: (folder / "manifest.json").unlink(), "is no backup"),
    "no JSON": (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json is damaged"),
    "a changed manifest": (
        lambda folder: edit(folder, lambda m: m["tables"]["labels_judgement"].update(rows=19), seal=False),
        "manifest.json is damaged",
    ),
    "another format": (lambda folder: edit(folder, lambda m: m.update(format=7)), "has format 7"),
    "a changed row": (damage_table, "table labels_judgement of this backup is damaged: its checksum"),
    "a table cut short": (
        lambda folder: os.truncate(folder / "tables" / "labels_judgement.jsonl.gz", 90),
        "table labels_judgement of this backup is damaged",
    ),
    "a changed file": (
        lambda folder: (folder / "files" / "imports" / "ab" / "a.jsonl").write_text("[]"),
        "the checksum of .*a.jsonl is another one",
    ),
    "a missing file": (lambda folder: (folder / "files" / "imports" / "ab" / "a.jsonl").unlink(), "a.jsonl is missing"),
    "a file too many": (
        lambda folder: (folder / "files" / "imports" / "x").write_text(""),
        "x is not of this backup",
    ),
    "a path out of the folder": (
        lambda folder: edit(folder, lambda m: m["files"].update({"../evil": {"bytes": 0, "sha256": ""}})),
        "manifest.json is damaged",
    ),
    "older migrations": (
        lambda folder: edit(folder, lambda m: m["migrations"].update(labels=["0000_before"])),
        r"labels at migration 0000_before; this database has 0\d+_\w+. Install the version",
    ),
    "other columns": (
        lambda folder: edit(folder, lambda m: m["tables"]["labels_judgement"]["columns"].append("mood")),
        "table labels_judgement is another one",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_or_foreign_backup_changes_nothing(
    made: Path, installation: Project, elsewhere: Callable[[str], Path], kind: str
) -> None:
    damage, words = DAMAGES[kind]
    damage(made)
    data = elsewhere("b")
    with pytest.raises(CommandError, match=words):
        call_command("restore", str(made), "--replace")
    assert Judgement.objects.count() == 20
    assert [path.name for path in data.iterdir() if path.name[0] != "."] == []


def test_a_restore_that_breaks_off_leaves_all_as_it_was(
    made: Path, installation: Project, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {
        path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file() and path.name[0] != "."
    }
    copy, copied = backups.Copier.copy, []

    def full(self: Any, name: str, source: Path) -> Any:
        if len(copied) == 3:
            raise OSError(28, "No space left on device")
        copied.append(name)
        return copy(self, name, source)

    monkeypatch.setattr(backups.Copier, "copy", full)
    with pytest.raises(BackupRefused, match=r"Nothing was restored: .*No space left"):
        backup_restore(folder=made, replace=True)
    after = {
        path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file() and path.name[0] != "."
    }
    assert after == before
    assert Judgement.objects.count() == 20


def test_refusals_of_a_place(installation: Project, tmp_path: Path, data_dir: Path) -> None:
    with pytest.raises(CommandError, match=r"No backup was made.*lies in the data folder"):
        call_command("backup", str(data_dir / "backup"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(CommandError, match="there already and not empty"):
        call_command("backup", str(tmp_path / "full"))
    (tmp_path / ".new.part").mkdir()
    with pytest.raises(CommandError, match="another backup runs"):
        call_command("backup", str(tmp_path / "new"))


def test_what_removes_files_waits_for_a_backup(data_dir: Path) -> None:
    with files_held(shared=True) as first, files_held(shared=True) as second:
        assert first
        assert second
        with files_held(shared=False) as alone:
            assert not alone
    with files_held(shared=False) as alone:
        assert alone


@pytest.fixture
def empty_postgres() -> Iterator[str]:
    """The URL of a new database on the PostgreSQL server of the tests."""
    server = postgres_url()
    if server is None:
        pytest.skip("no PostgreSQL server to test with")
    plain, name = server.replace("postgres://", "postgresql://", 1), f"caliper_{uuid4().hex[:12]}"
    with psycopg.connect(plain, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
    yield f"{server.rpartition('/')[0]}/{name}"
    with psycopg.connect(plain, autocommit=True) as admin:
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.mark.slow
@pytest.mark.one_database
def test_from_either_database_into_the_other(made: Path, empty_postgres: str, tmp_path: Path) -> None:
    """SQLite -> PostgreSQL -> SQLite (in the run on PostgreSQL: from there): three backups with one digest."""
    digests = [json.loads((made / "manifest.json").read_text())["digest"]]
    source = made
    for number, url in enumerate([empty_postgres, f"sqlite:///{tmp_path}/other.sqlite3"]):
        environment = own_environment(tmp_path / f"data-{number}") | {"DATABASE_URL": url}

        def manage(*words: str, environment: dict[str, str] = environment) -> str:
            result = subprocess.run(
                [sys.executable, "manage.py", *words],
                cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert result.returncode == 0, result.stdout + result.stderr
            return result.stdout

        manage("migrate", "--noinput", "--verbosity", "0")
        manage("restore", str(source))
        source = tmp_path / f"backup-{number}"
        digests.append(manage("backup", str(source)).split()[-1])
    assert len(set(digests)) == 1
