"""Data and models go to a hub or store: what the real client sends, and what is refused."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from tests.hub_double import WRITE, Hub, Repo, clients_at, sha256
from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Prompt
from webapp.importing.addresses import AddressRefused
from webapp.jobs import State
from webapp.labels.models import Judgement
from webapp.snapshots.exporting import export_start
from webapp.snapshots.models import DataPush, Export
from webapp.snapshots.pushing import MARK, push_address, push_retry, push_run, push_start
from webapp.training.models import ARCHIVE_FORMAT, ModelExport, ModelPush, ModelVersion, TrainingRun
from workers import tasks
from workers.held_out import held_out_responses


@pytest.fixture
def export(project: Project, admin: User, make_prompt: Callable[..., Prompt]) -> Export:
    """Ten judged pairs, each of a prompt of its own."""
    Project.objects.filter(pk=project.pk).update(split_salt="fixed")
    project.refresh_from_db()
    for number in range(10):
        make_prompt(project, f"p{number}", [f"Yes {number}.", f"No {number}."])
    for pair in Pair.objects.of(project):
        Judgement.objects.create(pair=pair, annotator=admin, verdict="a", client_key=f"k{pair.pk}")
    return exported(project, admin, file_type="jsonl")


def exported(project: Project, admin: User, **chosen: Any) -> Export:
    row = Export(format="trl-explicit", **chosen)
    export_start(export_row=row, project=project, created_by=admin)
    tasks.export_file(row.pk)
    row.refresh_from_db()
    assert (row.error, row.state) == ("", State.DONE)
    return row


def pushed(export: Any, admin: User, address: str, *, public: bool = False) -> Any:
    push = push_start(export=export, address=address, public=public, created_by=admin)
    carry = tasks.push_data if isinstance(push, DataPush) else tasks.push_model
    carry(push.pk)
    push.refresh_from_db()
    return push


@pytest.fixture
def _clients_at_the_double(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What `datasets` and huggingface_hub read from the environment when they are loaded."""
    import datasets.config

    clients_at(hub, tmp_path / "cache", monkeypatch)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(
        datasets.config, "HUB_DATASETS_URL", hub.url + "/datasets/{repo_id}/resolve/{revision}/{path}"
    )


@pytest.mark.usefixtures("_clients_at_the_double")
def test_an_export_becomes_a_data_set(
    hub: Hub, export: Export, admin: User, project: Project, data_dir: Path, tmp_path: Path
) -> None:
    import datasets

    together, export = export, exported(project, admin, file_type="parquet", held_out_apart=True)
    push = pushed(export, admin, "org/prefs")
    repo = hub.repos["dataset", "org/prefs"]
    assert (push.error, push.state, repo.private) == ("", State.DONE, True)
    assert push.report["commit"] == repo.head
    assert push.link == f"{hub.url}/datasets/org/prefs/tree/{repo.head}"
    assert set(repo.files) == {".gitattributes", "README.md", MARK, "data/train.parquet", "data/test.parquet"}
    for name in ("data/train.parquet", "data/test.parquet", "README.md"):
        assert repo.files[name] == (export.folder / name).read_bytes()
    mark = json.loads(repo.files[MARK])
    assert mark["snapshot"] == export.report["snapshot"]
    assert WRITE.encode() not in b"".join(repo.files.values())

    # The real library loads it as it lies there, with its splits, at that commit.
    loaded = datasets.load_dataset(
        "org/prefs", revision=push.report["commit"], token=WRITE, cache_dir=str(tmp_path / "datasets")
    )
    assert {split: len(found) for split, found in loaded.items()} == export.report["splits"]
    prompts = {split: set(found["prompt"]) for split, found in loaded.items()}
    assert not prompts["train"] & prompts["test"]
    held_out = held_out_responses(data_dir / "snapshots" / export.report["snapshot"], project.split_salt)
    assert len(prompts["test"]) == len(held_out) // 2

    entry = project.audit_entries.get(action="pushed")
    assert (entry.actor, entry.detail["to"], entry.detail["public"]) == (
        admin,
        "hf://datasets/org/prefs",
        False,
    )
    assert WRITE not in json.dumps([entry.detail, push.report, push.error])

    # Again, of other files: one more commit, without what is no longer there; what others added stays.
    repo.commit({**repo.files, "LICENSE": b"CC0"}, "a licence")
    assert pushed(together, admin, "hf://datasets/org/prefs").error == ""
    assert set(repo.files) == {".gitattributes", "LICENSE", "README.md", MARK, "data/train.jsonl"}


@pytest.mark.one_database
def test_what_a_hub_refuses(hub: Hub, export: Export, admin: User, settings: Any) -> None:
    hub.dataset("org/theirs", {"README.md": b"theirs"})
    assert "has files that Caliper didn't push" in pushed(export, admin, "org/theirs").error
    assert hub.repos["dataset", "org/theirs"].files == {"README.md": b"theirs"}
    assert pushed(export, admin, "org/open", public=True).state == State.DONE
    assert not hub.repos["dataset", "org/open"].private
    assert "Everybody can read" in pushed(export, admin, "org/open").error
    assert "token may not write" in pushed(export, admin, "others/data").error

    hub.before_commit = lambda: hub.repos["dataset", "org/busy"].commit({"README.md": b""}, "meanwhile")
    failed = pushed(export, admin, "org/busy")
    assert "Somebody changed" in failed.error
    hub.before_commit = lambda: None
    del hub.repos["dataset", "org/busy"]
    assert push_retry(push=failed, actor=admin)
    push_run(failed)
    assert failed.state == State.DONE
    assert not push_retry(push=failed, actor=admin)

    settings.HUB_ENDPOINT = "http://127.0.0.1:9"
    assert "can't be reached" in pushed(export, admin, "org/prefs").error
    settings.HUB_PUSH_TOKEN = ""
    with pytest.raises(AddressRefused, match="CALIPER_HUB_TOKEN"):
        pushed(export, admin, "org/prefs")
    (export.folder / "README.md").unlink()
    settings.HUB_PUSH_TOKEN, settings.HUB_ENDPOINT = WRITE, hub.url
    assert "gone from the disk" in pushed(export, admin, "org/new").error
    assert ("dataset", "org/new") not in hub.repos


@pytest.mark.one_database
def test_cancelled_on_the_way(hub: Hub, export: Export, admin: User, monkeypatch: pytest.MonkeyPatch) -> None:
    push = push_start(export=export, address="org/prefs", public=False, created_by=admin)
    again = push_start(export=export, address="org/prefs", public=False, created_by=admin)
    assert again.pk == push.pk
    monkeypatch.setattr("webapp.snapshots.pushing.SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(DataPush, "asked_to_stop", lambda self: self.phase == "pushing" and self.step > 0)
    push_run(push)
    push.refresh_from_db()
    assert (push.state, push.report) == (State.CANCELLED, {})
    assert set(hub.repos["dataset", "org/prefs"].files) == {".gitattributes"}


@pytest.mark.one_database
def test_into_a_store(export: Export, admin: User, settings: Any, tmp_path: Path, monkeypatch: Any) -> None:
    out = tmp_path / "out"
    out.mkdir()
    settings.STORES_OUT = [f"file://{out}"]
    assert pushed(export, admin, f"file://{out}/first").error == ""
    assert sorted(path.name for path in (out / "first").rglob("*") if path.is_file()) == [
        "README.md", MARK, "train.jsonl",
    ]  # fmt: skip
    assert "There is something" in pushed(export, admin, f"file://{out}/first").error
    for address in (f"file://{tmp_path}/other", f"file://{out}/../other", "s3://bucket/x"):
        with pytest.raises(AddressRefused, match="CALIPER_STORES_OUT"):
            pushed(export, admin, address)
    # What broke off is taken away.
    monkeypatch.setattr("webapp.snapshots.pushing.SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(DataPush, "asked_to_stop", lambda self: self.phase == "pushing" and self.step > 1)
    assert pushed(export, admin, f"file://{out}/second").state == State.CANCELLED
    assert not [path for path in (out / "second").rglob("*") if path.is_file()]


@pytest.mark.one_database
def test_the_command(hub: Hub, export: Export, project: Project, tmp_path: Path, capsys: Any) -> None:
    chosen = {"project": project.slug, "format": "trl-explicit", "push": "org/prefs"}
    call_command("export_data", out=tmp_path / "out", **chosen)
    repo = hub.repos["dataset", "org/prefs"]
    assert repo.files["data/train.parquet"] == (tmp_path / "out/data/train.parquet").read_bytes()
    assert f"pushed to {hub.url}/datasets/org/prefs/tree/{repo.head}" in capsys.readouterr().out
    assert project.audit_entries.get(action="pushed").actor_name == "manage.py"
    with pytest.raises(CommandError, match="but not pushed"):
        call_command("export_data", out=tmp_path / "again", **{**chosen, "push": "others/prefs"})


@pytest.fixture
def packed(project: Project, admin: User, data_dir: Path) -> ModelExport:
    """A packed version; only its archive matters here."""
    snapshot = project.snapshots.create(digest="d" * 64, counts={})
    run = TrainingRun.objects.create(
        project=project, snapshot=snapshot, method="bt", config={}, state=State.DONE
    )
    version = ModelVersion.objects.create(
        project=project, run=run, method="bt", number=3, kind="scalar", digest="e" * 64
    )
    export = ModelExport.objects.create(
        version=version, format="caliper", state=State.DONE, report={"format": ARCHIVE_FORMAT}
    )
    export.archive.parent.mkdir()
    with zipfile.ZipFile(export.archive, "w", zipfile.ZIP_DEFLATED) as archive:
        top = export.name
        archive.writestr(f"{top}/README.md", "---\nlibrary_name: transformers\n---\n# A model\n")
        archive.writestr(f"{top}/base/config.json", "{}")
        archive.writestr(zipfile.ZipInfo(f"{top}/model.safetensors"), bytes(range(256)) * 5000)
    return export


def test_a_packed_model(hub: Hub, packed: ModelExport, admin: User) -> None:
    push = pushed(packed, admin, "org/reward")
    repo: Repo = hub.repos["model", "org/reward"]
    assert (push.error, push.link) == ("", f"{hub.url}/org/reward/tree/{repo.head}")
    assert set(repo.files) == {".gitattributes", "README.md", "base/config.json", "model.safetensors", MARK}
    assert sha256(repo.files["model.safetensors"]) == sha256(bytes(range(256)) * 5000)
    assert json.loads(repo.files[MARK])["version"] == "bt-3"
    assert repo.messages[-1].startswith("Bradley-Terry")
    packed.archive.unlink()
    assert "Pack it again" in pushed(packed, admin, "org/reward").error


@pytest.mark.one_database
@pytest.mark.usefixtures("hub")
def test_pages(
    export: Export,
    packed: ModelExport,
    project: Project,
    admin: User,
    researcher: User,
    annotator: User,
    stranger: User,
    client_of: Callable[[User], Client],
    settings: Any,
) -> None:
    for bad in (
        "",
        "../x",
        "org/a--b",
        "hf://x",
        "s3://bucket/x",
        "org/" + "x" * 600,
        "org/\x00",
        "org/\ud800",
    ):
        with pytest.raises(AddressRefused):
            push_address(bad, "model")
    for name, pk in (("snapshots", export.pk), ("training", packed.pk)):
        url = reverse(f"{name}:push", args=[project.slug, pk])
        progress = reverse(f"{name}:push-progress", args=[project.slug, pk])
        for user, reads, writes in (
            (admin, 200, 302), (researcher, 200, 403), (annotator, 403, 403), (stranger, 404, 404),
        ):  # fmt: skip
            client = client_of(user)
            assert client.get(url).status_code == reads
            assert client.post(url, {"address": f"org/{user.username}"}).status_code == writes
            if user != admin:
                assert client.get(progress, HTTP_HX_REQUEST="true").status_code == reads
        assert Client().get(url).status_code == 302
        client = client_of(admin)
        page = client.get(progress, HTTP_HX_REQUEST="true").text
        assert [text in page for text in ("org/adam", "org/rita", WRITE)] == [True, False, False]
        assert client.post(url, {"address": "http://127.0.0.1/x"}).status_code == 400
        model = DataPush if name == "snapshots" else ModelPush
        push = model.objects.get()
        assert (push.public, push.state) == (False, State.QUEUED)
        cancel = reverse(f"{name}:push-cancel", args=[project.slug, push.pk])
        assert client_of(researcher).post(cancel).status_code == 403
        assert client.post(cancel).status_code == 302
        retry = reverse(f"{name}:push-retry", args=[project.slug, push.pk])
        assert client.post(retry).status_code == 302
        push.refresh_from_db()
        assert push.state == State.QUEUED
        other = Project.objects.create(slug=f"other-{name}", name="Other")
        other.memberships.create(user=admin, role="admin")
        for elsewhere in (url, cancel, retry):
            assert (
                client.post(elsewhere.replace(project.slug, other.slug), {"address": "org/x"}).status_code
                == 404
            )
    settings.HUB_PUSH_TOKEN = ""
    assert "CALIPER_HUB_TOKEN" in client_of(admin).get(url).text
