"""The export page: who may, what can be asked for, progress, downloads."""

import zipfile
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from django.test import Client

from webapp.accounts.models import User
from webapp.corpus.models import Project
from webapp.jobs import ProgressFile, State
from webapp.snapshots.exporting import export_run
from webapp.snapshots.models import Export

PAGE = "/p/capitals/exports/"
CHOICE = {"format": "trl-explicit", "file_type": "jsonl", "aggregation": "majority"}


@pytest.fixture(autouse=True)
def sent(monkeypatch: Any) -> list[tuple[str, int]]:
    """What would have gone to the broker."""
    messages: list[tuple[str, int]] = []
    monkeypatch.setattr("webapp.jobs.enqueue", lambda task, pk, queue: messages.append((task, pk)))
    return messages


@pytest.fixture
def done(labelled: Project, researcher: User) -> Export:
    export = Export.objects.create(project=labelled, created_by=researcher, **CHOICE)
    export_run(export)
    export.refresh_from_db()
    return export


def body(response: Any) -> bytes:
    return b"".join(response.streaming_content)


@pytest.mark.parametrize(("who", "status"), [("annotator", 403), ("stranger", 404), (None, 302)])
def test_annotators_and_strangers_export_nothing(
    request: Any, client_of: Callable[[User], Client], done: Export, who: str | None, status: int
) -> None:
    client = client_of(request.getfixturevalue(who)) if who else Client()
    for method, url in [
        ("get", PAGE), ("post", PAGE), ("get", f"{PAGE}progress/"), ("post", f"{PAGE}{done.pk}/retry/"),
        ("get", f"{PAGE}{done.pk}/data/train.jsonl"),
    ]:  # fmt: skip
        assert getattr(client, method)(url).status_code == status, url
    assert Export.objects.count() == 1


@pytest.mark.parametrize("who", ["researcher", "admin"])
def test_researchers_and_admins_ask_for_one(
    request: Any, client_of: Callable[[User], Client], project: Project, who: str, sent: list[Any]
) -> None:
    user = request.getfixturevalue(who)
    client = client_of(user)
    assert "No export was made yet" in client.get(PAGE).content.decode()
    assert client.post(PAGE, CHOICE).headers["Location"] == PAGE
    export = Export.objects.get()
    assert (export.created_by, export.state, export.superseded) == (user, State.QUEUED, False)
    assert sent == [("workers.tasks.export_file", export.pk)]
    assert 'hx-trigger="every 1s"' in client.get(PAGE).content.decode()


def test_what_does_not_fit_is_refused_at_once(client_of: Callable[[User], Client], researcher: User) -> None:
    response = client_of(researcher).post(
        PAGE, {**CHOICE, "format": "trl-conversational", "file_type": "csv"}
    )
    assert response.status_code == 400
    assert "no nested columns" in response.content.decode()
    assert not Export.objects.exists()


def test_a_finished_export_shows_rows_and_what_was_left_out(
    client_of: Callable[[User], Client], researcher: User, done: Export
) -> None:
    page = client_of(researcher).get(PAGE).content.decode()
    for words in ("1 × ties", "1 × “both bad”", "data/train.jsonl", "README.md", "all as .zip"):
        assert words in page
    assert "hx-trigger" not in page


def test_downloads(client_of: Callable[[User], Client], researcher: User, done: Export) -> None:
    client = client_of(researcher)
    data = client.get(f"{PAGE}{done.pk}/data/train.jsonl", headers={"Accept-Encoding": "gzip"})
    assert data.headers["Content-Disposition"] == 'attachment; filename="train.jsonl"'
    assert "Content-Encoding" not in data.headers
    assert body(data) == (done.folder / "data" / "train.jsonl").read_bytes()
    archive = client.get(f"{PAGE}{done.pk}/capitals-trl-explicit-{done.pk}.zip")
    assert f'filename="capitals-trl-explicit-{done.pk}.zip"' in archive.headers["Content-Disposition"]
    with zipfile.ZipFile(BytesIO(body(archive))) as zipped:
        assert len(zipped.namelist()) == 2


@pytest.mark.parametrize(
    "name", ["data/../../../secret_key", "..%2f..%2fsecret_key", "/etc/passwd", "data", "other.zip"]
)
def test_only_listed_files_can_be_downloaded(
    client_of: Callable[[User], Client], researcher: User, done: Export, data_dir: Any, name: str
) -> None:
    (data_dir / "secret_key").write_text("secret")
    assert client_of(researcher).get(f"{PAGE}{done.pk}/{name}").status_code == 404


def test_exports_of_other_projects_stay_there(
    client_of: Callable[[User], Client], make_user: Callable[..., User], done: Export
) -> None:
    other = Project.objects.create(slug="other", name="Other")
    client = client_of(make_user("olga", other, "admin"))
    assert client.get(f"/p/other/exports/{done.pk}/data/train.jsonl").status_code == 404
    assert "train.jsonl" not in client.get("/p/other/exports/").content.decode()


def test_files_that_are_gone_are_said_to_be(
    client_of: Callable[[User], Client], researcher: User, done: Export
) -> None:
    client = client_of(researcher)
    done.archive.unlink()
    assert client.get(f"{PAGE}{done.pk}/capitals-trl-explicit-{done.pk}.zip").status_code == 404
    done.folder.rename(done.folder.with_name("elsewhere"))
    assert "gone from the disk" in client.get(PAGE).content.decode()


def test_the_list_follows_the_work(
    client_of: Callable[[User], Client], researcher: User, project: Project, sent: list[Any]
) -> None:
    client = client_of(researcher)
    export = Export.objects.create(project=project, created_by=researcher, state=State.RUNNING)
    token = client.get(PAGE).context["token"]
    progress = f"{PAGE}progress/?token={token}"
    assert client.get(progress, headers={"HX-Request": "true"}).status_code == 204
    export.progress_path.parent.mkdir(parents=True)
    ProgressFile(export.progress_path).write(step=1, total=4)
    assert "25 %" in client.get(progress, headers={"HX-Request": "true"}).content.decode()
    Export.objects.update(state=State.LOST, error="The worker stopped answering.")
    fragment = client.get(progress, headers={"HX-Request": "true"}).content.decode()
    assert "stopped answering" in fragment
    assert "hx-trigger" not in fragment
    client.post(f"{PAGE}{export.pk}/retry/")
    export.refresh_from_db()
    assert export.state == State.QUEUED
    assert sent == [("workers.tasks.export_file", export.pk)]
    assert client.get(progress).headers["Location"] == PAGE


def test_the_list_is_cheap(
    client_of: Callable[[User], Client],
    researcher: User,
    project: Project,
    django_assert_max_num_queries: Any,
) -> None:
    for _ in range(15):
        Export.objects.create(project=project, created_by=researcher, state=State.DONE, report={"files": []})
    client = client_of(researcher)
    with django_assert_max_num_queries(7):
        client.get(PAGE)
