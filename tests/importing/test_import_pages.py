"""The import pages: who may, uploading, following progress, confirming, downloads."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from webapp import waiting
from webapp.accounts.models import User
from webapp.corpus.models import Import, Project, Prompt
from webapp.importing.services import import_run
from webapp.jobs import ProgressFile, State
from webapp.labels.models import Judgement

LINES = [
    {"type": "prompt", "id": "p1", "text": "Why <b>bold</b>?"},
    {"type": "response", "id": "r1", "prompt": "p1", "text": "<script>alert(1)</script>"},
    {"type": "response", "id": "r2", "prompt": "p1", "text": "Two."},
    {"type": "vote", "a": "r1", "b": "r2", "annotator": "kim", "verdict": "a"},
    {"type": "level", "response": "r1", "annotator": "kim", "level": "superb"},
]


@pytest.fixture(autouse=True)
def sent(monkeypatch: Any) -> list[tuple[str, int]]:
    """What would have gone to the broker."""
    messages: list[tuple[str, int]] = []
    monkeypatch.setattr("webapp.jobs.enqueue", lambda task, pk, queue: messages.append((task, pk)))
    return messages


@pytest.fixture
def row(project: Project, admin: User) -> Import:
    created = Import.objects.create(
        project=project, created_by=admin, file_name="a.jsonl", folder="imports/x", format="auto"
    )
    created.error_file().parent.mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in LINES)
    created.error_file().with_name("a.jsonl").write_text(text)
    return created


def upload(name: str = "a.jsonl", text: str = '{"type": "pair"}\n') -> SimpleUploadedFile:
    return SimpleUploadedFile(name, text.encode())


def urls(row: Import) -> list[tuple[str, str]]:
    keys = [row.project.slug, row.pk]
    posts = ("import-confirm", "import-cancel", "import-retry")
    gets = ("import", "import-progress", "import-errors")
    return [
        ("get", reverse("importing:imports", args=keys[:1])),
        ("post", reverse("importing:imports", args=keys[:1])),
        *(("post", reverse(f"importing:{name}", args=keys)) for name in posts),
        *(("get", reverse(f"importing:{name}", args=keys)) for name in gets),
    ]


@pytest.mark.parametrize(
    ("who", "status"), [("annotator", 403), ("researcher", 403), ("stranger", 404), (None, 302)]
)
def test_only_admins_import(
    request: Any, client_of: Callable[[User], Client], row: Import, who: str | None, status: int
) -> None:
    client = client_of(request.getfixturevalue(who)) if who else Client()
    for method, url in urls(row):
        response = getattr(client, method)(url)
        assert response.status_code == status, url
        if who is None:
            assert "/sign-in/" in response.headers["Location"]
    row.refresh_from_db()
    assert (row.state, row.dry_run) == (State.QUEUED, True)


def test_an_admin_of_another_project_sees_none_of_it(
    client_of: Callable[[User], Client], admin: User, make_user: Callable[..., User], row: Import
) -> None:
    other = Project.objects.create(slug="other", name="Other")
    client = client_of(make_user("olga", other, "admin"))
    assert client.get(reverse("importing:import", args=["other", row.pk])).status_code == 404
    assert client.get(reverse("importing:import", args=["capitals", row.pk])).status_code == 404


def test_an_empty_list_says_what_to_do(client_of: Callable[[User], Client], admin: User) -> None:
    page = client_of(admin).get("/p/capitals/imports/").content.decode()
    assert "Nothing was imported yet" in page


def test_uploading_keeps_the_files_and_queues_a_preview(
    client_of: Callable[[User], Client], admin: User, sent: list[Any]
) -> None:
    files = [upload("../../evil name.jsonl"), upload("errors.jsonl"), upload("errors.jsonl")]
    response = client_of(admin).post("/p/capitals/imports/", {"uploads": files, "format": "auto"})
    row = Import.objects.get()
    assert response.headers["Location"] == f"/p/capitals/imports/{row.pk}/"
    assert (row.dry_run, row.state, row.created_by) == (True, State.QUEUED, admin)
    names = sorted(path.name for path in row.error_file().parent.iterdir())
    assert names == ["2-errors.jsonl", "3-errors.jsonl", "evil-name.jsonl"]
    assert sent == [("workers.tasks.import_file", row.pk)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"format": "auto"}, "This field is required"),
        ({"uploads": [upload("a.jsonl", "")], "format": "auto"}, "file is empty"),
        ({"uploads": [upload(text="x" * 3000)], "format": "auto"}, "is more than the"),
        ({"uploads": [upload() for _ in range(11)], "format": "auto"}, "At most 10 files"),
        ({"uploads": [upload()], "format": "lotus"}, "lotus is not one of"),
    ],
)
def test_uploads_that_are_refused(
    client_of: Callable[[User], Client], admin: User, settings: Any, data: dict[str, Any], message: str
) -> None:
    settings.MAX_UPLOAD_BYTES = 2000
    for file in data.get("uploads", []):
        file.seek(0)
    response = client_of(admin).post("/p/capitals/imports/", data)
    assert response.status_code == 400
    assert message in response.content.decode()
    assert not Import.objects.exists()


def test_a_full_disk_is_reported_and_leaves_nothing(
    client_of: Callable[[User], Client], admin: User, monkeypatch: Any
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("webapp.importing.services.safe_name", full)
    response = client_of(admin).post("/p/capitals/imports/", {"uploads": [upload()], "format": "auto"})
    assert "No space left on device" in response.content.decode()
    assert not Import.objects.exists()


def test_preview_confirm_and_done(
    client_of: Callable[[User], Client], admin: User, row: Import, sent: list[Any]
) -> None:
    client = client_of(admin)
    url = f"/p/capitals/imports/{row.pk}/"
    import_run(row)
    page = client.get(url).content.decode()
    assert "nothing is written yet" in page
    assert "1 row with problems will be left out" in page
    assert "<code>level</code>" in page
    assert "superb" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page
    assert "hx-trigger" not in page
    assert not Prompt.objects.exists()
    assert client.post(url + "confirm/").headers["Location"] == url
    assert sent == [("workers.tasks.import_file", row.pk)]
    client.post(url + "confirm/")
    assert len(sent) == 1
    import_run(Import.objects.get(pk=row.pk))
    page = client.get(url).content.decode()
    assert "Imported in" in page
    assert "1 row left out" in page
    assert Judgement.objects.count() == 1
    errors = client.get(url + "errors.jsonl")
    assert errors.headers["Content-Disposition"].startswith("attachment")
    assert json.loads(b"".join(errors.streaming_content))["row"] == 5  # type: ignore[attr-defined]


def test_a_preview_without_news_has_nothing_to_confirm(
    client_of: Callable[[User], Client], admin: User, row: Import
) -> None:
    Import.objects.filter(pk=row.pk).update(dry_run=False)
    import_run(Import.objects.get(pk=row.pk))
    again = Import.objects.create(project=row.project, file_name="a.jsonl", folder=row.folder)
    import_run(again)
    page = client_of(admin).get(f"/p/capitals/imports/{again.pk}/").content.decode()
    assert "in the project already" in page
    assert "Import it" not in page


def test_the_page_follows_the_work_until_it_ends(
    client_of: Callable[[User], Client], admin: User, row: Import
) -> None:
    client = client_of(admin)
    url = f"/p/capitals/imports/{row.pk}/"
    page = client.get(url)
    assert "in the queue" in page.content.decode()
    token = page.context["token"]
    progress = f"{url}progress/?token="
    assert client.get(progress + token, headers={"HX-Request": "true"}).status_code == 204
    Import.objects.filter(pk=row.pk).update(state=State.RUNNING, phase="writing", heartbeat_at=timezone.now())
    ProgressFile(row.error_file().with_name("progress.json")).write(step=30, total=40)
    changed = client.get(progress + token, headers={"HX-Request": "true"})
    assert changed.status_code == 200
    assert "75 %" in changed.content.decode()
    assert "<html" not in changed.content.decode()
    assert 'hx-trigger="every 1s"' in changed.content.decode()
    Import.objects.filter(pk=row.pk).update(state=State.FAILED, error="It broke: <mend> it.")
    ended = client.get(progress + token, headers={"HX-Request": "true"}).content.decode()
    assert "hx-trigger" not in ended
    assert "It broke: &lt;mend&gt; it." in ended
    assert "Try again" in ended
    # Without htmx the link leads to the page.
    assert client.get(progress + token).headers["Location"] == url


def test_cancel_and_try_again(
    client_of: Callable[[User], Client], admin: User, row: Import, sent: list[Any]
) -> None:
    client = client_of(admin)
    url = f"/p/capitals/imports/{row.pk}/"
    client.post(url + "cancel/")
    row.refresh_from_db()
    assert row.state == State.CANCELLED
    client.post(url + "retry/")
    row.refresh_from_db()
    assert row.state == State.QUEUED
    assert sent == [("workers.tasks.import_file", row.pk)]


@pytest.mark.parametrize(("workers", "message"), [([], "is one running?"), (["w1"], "all of them are busy")])
def test_it_says_why_it_waits(
    client_of: Callable[[User], Client],
    admin: User,
    row: Import,
    monkeypatch: Any,
    workers: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(waiting.heartbeat, "readers", lambda client, queues: {"default": workers})
    client = client_of(admin)
    url = f"/p/capitals/imports/{row.pk}/"
    assert message not in client.get(url).content.decode()
    Import.objects.filter(pk=row.pk).update(queued_at=timezone.now() - timedelta(minutes=1))
    assert message in client.get(url).content.decode()


def test_the_description_of_the_formats(client_of: Callable[[User], Client], admin: User) -> None:
    page = client_of(admin).get("/p/capitals/imports/formats/").content.decode()
    assert '<h2 dir="auto">Caliper JSONL</h2>' in page
    assert '<table dir="auto">' in page


def test_the_list_is_cheap(
    client_of: Callable[[User], Client], admin: User, project: Project, django_assert_max_num_queries: Any
) -> None:
    client = client_of(admin)
    for number in range(20):
        Import.objects.create(project=project, created_by=admin, file_name=f"{number}.jsonl", folder="x")
    with django_assert_max_num_queries(7):
        page = client.get("/p/capitals/imports/").content.decode()
    assert page.count("queued") >= 20
