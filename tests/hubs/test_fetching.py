"""Imports from a hub or store: from the address to the rows, and whatever may go wrong on the way."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tests.hub_double import READ, Hub
from webapp import life
from webapp.accounts.models import User
from webapp.corpus.models import Import, Project
from webapp.importing.addresses import AddressRefused, address_named
from webapp.importing.fetching import FETCHING
from webapp.importing.origins import origin_words
from webapp.importing.services import import_confirm, import_from, import_retry, import_run
from webapp.importing.sources import ImportRefused
from webapp.importing.splits import configs_of
from webapp.jobs import State
from webapp.snapshots.exporting import export_write

CARD = b"""---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: data/test.jsonl
- config_name: other
  data_files: more/*.csv
---
# Preferences
"""


def rows(*names: str) -> list[dict[str, Any]]:
    return [{"prompt": f"{name}?", "chosen": f"{name} yes", "rejected": f"{name} no"} for name in names]


def jsonl(*names: str) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows(*names)).encode()


@pytest.fixture
def prefs(hub: Hub, parquet: Callable[..., bytes]) -> Any:
    files = {
        "README.md": CARD,
        "data/train-00000-of-00002.parquet": parquet(rows("a", "b")),
        "data/train-00001-of-00002.parquet": parquet(rows("c")),
        "data/test.jsonl": jsonl("d"),
        "more/x.csv": b"prompt,chosen,rejected\ne?,yes,no\n",
        "prefs.py": b"raise SystemExit('a script ran')",
    }
    return hub.dataset("org/prefs", files)


def begun(project: Project, admin: User, address: str, **chosen: str) -> Import:
    row = import_from(project=project, address=address, created_by=admin, **chosen)
    import_run(row)
    row.refresh_from_db()
    return row


def test_from_an_address_to_rows(
    hub: Hub, prefs: Any, project: Project, admin: User, data_dir: Path, tmp_path: Path
) -> None:
    row = begun(project, admin, "org/prefs", split="train")
    assert (row.state, row.error, row.is_preview) == (State.DONE, "", True)
    assert row.origin["commit"] == prefs.head
    assert [file["path"] for file in row.origin["files"]] == [
        "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet",
    ]  # fmt: skip
    assert row.report["format"] == "trl"
    assert row.report["counts"]["pairs"]["new"] == 3
    # Later commits change nothing, and nothing is fetched again.
    prefs.commit({"README.md": b"gone"})
    hub.seen.clear()
    assert import_confirm(import_row=row, actor=admin)
    import_run(Import.objects.get(pk=row.pk))
    assert hub.seen == []
    assert project.prompts.count() == 3
    words = f"hf://datasets/org/prefs, config default, split train, commit {row.origin['commit']}"
    assert origin_words(row.origin) == words
    export_write(
        project=project,
        format="trl-explicit",
        file_type="jsonl",
        aggregation="majority",
        folder=tmp_path / "out",
    )
    assert f"- imported from {words}\n" in (tmp_path / "out" / "README.md").read_text()
    entry = project.audit_entries.get(action="import-uploaded")
    assert entry.detail["from"] == "hf://datasets/org/prefs"
    kept = json.dumps([row.origin, row.report, entry.detail]) + "".join(
        path.read_text(errors="replace") for path in data_dir.rglob("*") if path.is_file()
    )
    assert READ not in kept


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("address", "chosen", "said", "field"),
    [
        ("org/prefs", {}, "It has several splits. Name one of: train, test; or all.", "split"),
        (
            "org/prefs",
            {"split": "dev"},
            "There is no split “dev”. Name one of: train, test; or all.",
            "split",
        ),
        ("org/prefs", {"config": "x"}, "There is no config “x”. Name one of: default, other.", "config"),
        ("org/prefs", {"revision": "v9"}, "hf://datasets/org/prefs has no revision v9.", "revision"),
        ("org/none", {}, "There is no hf://datasets/org/none, or it is private.", "address"),
        ("org/script", {}, "It may be made by a script, which is never run.", "address"),
    ],
)
def test_what_is_not_there(
    prefs: Any,
    hub: Hub,
    project: Project,
    admin: User,
    address: str,
    chosen: dict[str, str],
    said: str,
    field: str,
) -> None:
    hub.dataset("org/script", {"script.py": b"print()"})
    row = begun(project, admin, address, **chosen)
    assert row.state == State.FAILED
    assert said in row.error


@pytest.mark.one_database
def test_gated_too_large_and_silent(
    hub: Hub, prefs: Any, project: Project, admin: User, settings: Any
) -> None:
    settings.HUB_TOKEN = ""
    hub.dataset("org/gated", {"a.jsonl": jsonl("a")}, gated=True)
    hub.dataset("org/secret", {"a.jsonl": jsonl("a")}, private=True)
    assert "(gated)" in begun(project, admin, "org/gated").error
    assert "or it is private" in begun(project, admin, "org/secret").error
    assert begun(project, admin, "org/prefs", split="test").state == State.DONE
    settings.MAX_UPLOAD_BYTES = 100
    row = begun(project, admin, "org/prefs", split="train")
    assert "more than the 0 MB allowed" in row.error
    assert not (settings.DATA_DIR / row.folder / FETCHING).exists()
    settings.HUB_ENDPOINT = "http://127.0.0.1:9"
    assert "can't be reached" in begun(project, admin, "org/prefs").error


@pytest.mark.one_database
def test_what_breaks_off_vanishes_and_is_resumed(
    hub: Hub, prefs: Any, project: Project, admin: User, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = "data/train-00001-of-00002.parquet"
    whole = prefs.files[second]
    # The same length, other bytes: not what was announced.
    hub.served = {second: whole[:-1] + b"?"}
    row = begun(project, admin, "org/prefs", split="train")
    assert row.state == State.FAILED
    assert "came otherwise than it was announced" in row.error
    folder = settings.DATA_DIR / row.folder
    assert [path.name for path in folder.iterdir()] == ["train-00000-of-00002.parquet"]
    hub.served = {}
    hub.seen.clear()
    assert import_retry(import_row=row, actor=admin)
    import_run(row)
    row.refresh_from_db()
    assert row.is_preview
    fetched = [line.rpartition("/")[2] for line in hub.seen if "/resolve/" in line]
    assert "train-00000-of-00002.parquet" not in fetched
    assert "train-00001-of-00002.parquet" in fetched

    # Somebody presses Cancel while files come.
    stopped = import_from(project=project, address="org/prefs", split="all", created_by=admin)
    asked = []

    def before(path: str) -> None:
        if path.endswith(".parquet") and not asked:
            # As request_cancel does it first; in this thread of the double there is no database.
            asked.append(life.cancel_note(stopped))
            time.sleep(0.1)

    hub.before_file = before
    monkeypatch.setattr("webapp.importing.services.SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr("webapp.life.LOOK_SECONDS", 0.01)
    import_run(stopped)
    stopped.refresh_from_db()
    assert (stopped.state, asked) == (State.CANCELLED, [True])
    assert not list((settings.DATA_DIR / stopped.folder).glob("*.parquet"))
    assert not (settings.DATA_DIR / stopped.folder / FETCHING).exists()


@pytest.fixture
def store(settings: Any, tmp_path: Path) -> Path:
    """A folder that the operator offers, beside one that isn't."""
    folder = tmp_path / "store" / "data"
    folder.mkdir(parents=True)
    (tmp_path / "store" / "data2").mkdir()
    (tmp_path / "store" / "data2" / "a.jsonl").write_bytes(jsonl("secret"))
    settings.STORES = [f"file://{folder}", "memory://offered/"]
    return folder


@pytest.mark.one_database
def test_addresses(settings: Any, store: Path) -> None:
    hub = "hf://datasets/org/prefs"
    for given in (
        "org/prefs",
        " hf://datasets/org/prefs/ ",
        "datasets/org/prefs",
        f"{settings.HUB_ENDPOINT}/datasets/org/prefs",
    ):
        assert address_named(given).text == hub
    assert address_named("org/prefs@v1").revision == "v1"
    assert (
        address_named(f"{settings.HUB_ENDPOINT}/datasets/org/prefs/tree/refs%2Fpr%2F1").revision
        == "refs/pr/1"
    )
    assert address_named("hf://datasets/squad").repo == "squad"
    assert address_named(f"file://{store}/a.jsonl").text == f"file://{store}/a.jsonl"
    (store / "out").symlink_to(store.parent / "data2")
    (store / "inside").symlink_to(settings.DATA_DIR)
    settings.STORES.append(f"file://{settings.DATA_DIR}/")
    refused = [
        "", "x" * 501, "org/prefs\x00", "org/prefs\ud800", "org/../prefs", "org/prefs/data/a.jsonl", "squad",
        "https://example.org/a.jsonl", "http://127.0.0.1/a.jsonl", "ftp://127.0.0.1/a", "s3://other/a.jsonl",
        f"file://{store}2/a.jsonl", f"file://{store}/../data2/a.jsonl", f"file://{store}/out/a.jsonl",
        f"file://{store}/./a", f"file://{store}//a", "file:///etc/passwd", "local:///etc/passwd",
        f"simplecache::file://{store}/a.jsonl", f"zip://a::file://{store}/a.zip", "memory://offered2/a", "memory://",
        f"file://{settings.DATA_DIR}/db.sqlite3", f"file://{store}/inside/secret_key", "MEMORY://offered/a",
        "hf://buckets/org/x", "hf://org/prefs/../x@v1", "org/prefs@../x", "org/prefs@",
    ]  # fmt: skip
    for given in refused:
        with pytest.raises(AddressRefused):
            print(given, address_named(given))
    with pytest.raises(AddressRefused) as refusal:
        address_named(f"file://{store}/a.jsonl", "v1")
    assert refusal.value.field == "revision"
    settings.HUB = False
    with pytest.raises(AddressRefused, match="CALIPER_HUB"):
        address_named("org/prefs")


@pytest.mark.one_database
def test_from_stores(project: Project, admin: User, store: Path) -> None:
    import fsspec
    import pyarrow as pa

    # As `datasets` saves to disk: a folder a split, Arrow in it.
    (store / "saved" / "train").mkdir(parents=True)
    table = pa.Table.from_pylist(rows("a", "b"))
    file = pa.OSFile(str(store / "saved/train/data-00000-of-00001.arrow"), "wb")
    with file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table)
    (store / "saved/train/state.json").write_text("{}")
    row = begun(project, admin, f"file://{store}/saved", split="train")
    assert (row.error, row.report["counts"]["pairs"]["new"]) == ("", 2)
    assert row.origin["files"][0]["name"] == "data-00000-of-00001.parquet"
    assert origin_words(row.origin, public=True) == "file://…/saved, config default, split train"
    system = fsspec.filesystem("memory")
    system.pipe("/offered/one.jsonl", jsonl("c"))
    assert begun(project, admin, "memory://offered/one.jsonl").report["counts"]["pairs"]["new"] == 1
    assert "There is nothing at" in begun(project, admin, "memory://offered/two.jsonl").error
    assert "holds no .jsonl" in begun(project, admin, f"file://{store}/saved/train/state.json").error
    # A link inside an offered folder leads out of it.
    (store / "linked").mkdir()
    (store / "linked" / "a.jsonl").symlink_to(store.parent / "data2" / "a.jsonl")
    assert "holds no .jsonl" in begun(project, admin, f"file://{store}/linked").error
    (store / "linked" / "folder").symlink_to(store.parent / "data2")
    row = begun(project, admin, f"file://{store}/linked")
    assert (row.state, "secret" in json.dumps(row.report)) == (State.FAILED, False)


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("data_files: https://169.254.169.254/latest/a.jsonl", "lie elsewhere"),
        ("data_files: ../../secret.jsonl", "lie elsewhere"),
        ("data_files: /etc/*.json", "lie elsewhere"),
        ("data_files: ~/x.json", "lie elsewhere"),
        ("data_files: 'zip://*.jsonl::http://127.0.0.1/a.zip'", "lie elsewhere"),
        ("data_dir: ../..", "lie elsewhere"),
        ("data_files: {a: [1, {}]}", "a form that is unknown"),
        ("data_files: [{split: train, path: [1]}]", "a form that is unknown"),
        ("data_files: [", "can't be read as YAML"),
        ("data_files: " + "[\n" * 3_000, "can't be read as YAML"),
        ("data_files: " + "x" * 300_000, "too long to be read"),
    ],
)
def test_a_card_leads_nowhere_else(tmp_path: Path, card: str, said: str) -> None:
    texts = {"README.md": f"---\nconfigs:\n- config_name: default\n  {card}\n---\n"}
    with pytest.raises(ImportRefused, match=said):
        configs_of(["a.jsonl"], texts, tmp_path)


@pytest.mark.one_database
def test_names_of_files_and_splits(tmp_path: Path) -> None:
    for name in (
        "../a.jsonl",
        "/a.jsonl",
        "a/../../b.jsonl",
        "a\x00.jsonl",
        "a//b.jsonl",
        "x" * 300 + ".jsonl",
    ):
        with pytest.raises(ImportRefused):
            configs_of([name], {}, tmp_path)
    found = configs_of(["data/train-00.jsonl", "data/test-00.jsonl", "dev.csv"], {}, tmp_path)
    assert found == {
        "default": {
            "train": ["data/train-00.jsonl"],
            "validation": ["dev.csv"],
            "test": ["data/test-00.jsonl"],
        }
    }
    found = configs_of(
        ["de/a.jsonl", "en/a.jsonl"],
        {".huggingface.yaml": "configs: [{config_name: de, data_dir: de}]"},
        tmp_path,
    )
    assert found == {"de": {"train": ["de/a.jsonl"]}}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]  # that of the test


def test_the_command(hub: Hub, prefs: Any, project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("import_data", "hf://datasets/org/prefs", project=project.slug, config="other", dry_run=True)
    assert "pairs" in capsys.readouterr().out
    assert project.imports.count() == 0
    call_command("import_data", "hf://datasets/org/prefs", project=project.slug, split="test")
    row = project.imports.get()
    assert (row.file_name, row.origin["commit"]) == ("hf://datasets/org/prefs test", prefs.head)
    assert project.prompts.count() == 1
    with pytest.raises(CommandError, match="Name one of: train, test"):
        call_command("import_data", "hf://datasets/org/prefs", project=project.slug)
    with pytest.raises(CommandError, match="one address"):
        call_command("import_data", "hf://datasets/org/prefs", "x.jsonl", project=project.slug)
