"""Taking a model away: who may, what the run's page shows meanwhile, the download."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse

from webapp.accounts.models import User
from webapp.corpus.models import Project
from webapp.jobs import State
from webapp.training.models import ModelExport, ModelVersion
from webapp.training.services import model_export_start

Make = Callable[..., Any]
ClientOf = Callable[[User], Client]
HTMX = {"HX-Request": "true"}


@pytest.fixture
def version(labelled: Project, make_version: Make) -> ModelVersion:
    return make_version(labelled, 1)


@pytest.fixture
def packed(version: ModelVersion, researcher: User) -> ModelExport:
    """A finished export with its archive."""
    export = ModelExport.objects.create(
        version=version,
        format="caliper",
        created_by=researcher,
        state=State.DONE,
        report={"format": 2, "archive_bytes": 6},
    )
    export.archive.parent.mkdir(parents=True)
    export.archive.write_bytes(b"zipped")
    return export


def url(name: str, pk: int, slug: str = "capitals") -> str:
    return reverse(f"training:{name}", args=[slug, pk])


def page_of(client: Client, version: ModelVersion) -> str:
    return " ".join(client.get(url("run", version.run_id)).content.decode().split())


@pytest.mark.parametrize(("who", "status"), [("annotator", 403), ("stranger", 404), (None, 302)])
def test_annotators_and_strangers_take_no_model(
    request: Any, client_of: ClientOf, packed: ModelExport, who: str | None, status: int
) -> None:
    client = client_of(request.getfixturevalue(who)) if who else Client()
    version = packed.version
    assert client.post(url("model-export-start", version.pk), {"format": "caliper"}).status_code == status
    assert client.get(url("model-exports", version.pk), headers=HTMX).status_code == status
    assert client.get(url("model-export-download", packed.pk)).status_code == status
    assert ModelExport.objects.count() == 1


@pytest.mark.parametrize("who", ["researcher", "admin"])
def test_researchers_and_admins_ask_for_one(
    request: Any,
    client_of: ClientOf,
    version: ModelVersion,
    who: str,
    sent: list[Any],
    django_capture_on_commit_callbacks: Any,
) -> None:
    user = request.getfixturevalue(who)
    client = client_of(user)
    assert page_of(client, version).count("Pack it") == 2
    with django_capture_on_commit_callbacks(execute=True):
        answer = client.post(url("model-export-start", version.pk), {"format": "transformers"})
    assert answer.headers["Location"] == url("run", version.run_id) + "#downloads"
    export = ModelExport.objects.get()
    assert (export.format, export.created_by, export.state) == ("transformers", user, State.QUEUED)
    assert sent == [("workers.tasks.export_model", export.pk, "default")]
    page = page_of(client, version)
    assert page.count("Pack it") == 1
    link = re.search(r'hx-get="([^"]+exports/[^"]+)"', page)
    assert link is not None
    assert client.get(link[1], headers=HTMX).status_code == 204
    assert export.claim()
    fragment = client.get(link[1], headers=HTMX).content.decode()
    assert "running" in fragment
    assert "<html" not in fragment
    assert client.get(link[1]).headers["Location"] == url("run", version.run_id)


def test_an_archive_that_is_there_is_not_made_again(
    version: ModelVersion, packed: ModelExport, admin: User, sent: list[Any]
) -> None:
    def ask() -> ModelExport:
        return model_export_start(version=version, format="caliper", created_by=admin)

    assert ask() == packed
    packed.archive.unlink()
    again = ask()
    assert again != packed
    assert ask() == again, "it is on its way"
    with pytest.raises(IntegrityError), transaction.atomic():
        ModelExport.objects.create(version=version, format="caliper", created_by=admin)
    assert again.claim()
    assert again.fail("It broke.")
    assert ask() not in (packed, again), "the failed row stays as it is"


def test_an_archive_of_an_earlier_version_is_packed_again(
    version: ModelVersion, packed: ModelExport, client_of: ClientOf, admin: User, sent: list[Any]
) -> None:
    """It may tell a path of the server."""
    ModelExport.objects.update(report={"archive_bytes": 6})
    assert client_of(admin).get(url("model-export-download", packed.pk)).status_code == 404
    assert model_export_start(version=version, format="caliper", created_by=admin) != packed
    assert not packed.archive.exists()


def test_the_download(
    client_of: ClientOf, researcher: User, packed: ModelExport, version: ModelVersion
) -> None:
    client = client_of(researcher)
    page = page_of(client, version)
    assert "Download the model (Caliper format)" in page
    assert "for rita" in page, "who took it out stands there"
    answer = client.get(url("model-export-download", packed.pk))
    assert b"".join(answer.streaming_content) == b"zipped"  # type: ignore[attr-defined]
    assert answer.headers["Content-Disposition"] == 'attachment; filename="capitals-oprm-v1-caliper.zip"'
    packed.archive.unlink()
    assert client.get(url("model-export-download", packed.pk)).status_code == 404
    assert "gone from the disk" in page_of(client, version)


def test_a_failure_says_why_and_offers_another_try(
    client_of: ClientOf, researcher: User, version: ModelVersion
) -> None:
    ModelExport.objects.create(
        version=version,
        format="transformers",
        created_by=researcher,
        state=State.FAILED,
        error="Too <large>.",
    )
    page = page_of(client_of(researcher), version)
    assert "Too &lt;large&gt;." in page
    assert "Try again" in page
    answer = client_of(researcher).post(
        url("model-export-start", version.pk), {"format": "pickle"}, follow=True
    )
    assert "There is no format “pickle”" in answer.content.decode()
    assert ModelExport.objects.count() == 1


def test_models_of_other_projects_stay_there(
    client_of: ClientOf, make_user: Make, packed: ModelExport
) -> None:
    other = Project.objects.create(slug="other", name="Other")
    client = client_of(make_user("olga", other, "admin"))
    assert client.get(url("model-export-download", packed.pk, "other")).status_code == 404
    start = url("model-export-start", packed.version_id, "other")
    assert client.post(start, {"format": "caliper"}).status_code == 404
    assert client.get(url("model-exports", packed.version_id, "other"), headers=HTMX).status_code == 404
