"""Imports over the API: a preview, which column is what, a confirmation, and taking it back."""

from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings

from tests.api.conftest import Api, said
from webapp.accounts.models import User
from webapp.corpus.models import Import, Project
from webapp.importing.services import import_run

IMPORTS = "/projects/capitals/imports"
ROWS = b"""{"ask": "Capital?", "one": "Paris", "two": "Lyon", "who_won": "one"}
{"ask": "River?", "one": "Seine", "two": "Alps", "who_won": "neither"}
{"ask": "", "one": "x", "two": "y", "who_won": "one"}
"""
ROLES = {"ask": "prompt", "one": "a", "two": "b", "who_won": "winner"}


@pytest.fixture
def caller(api: Callable[..., Api], admin: User, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setattr(Import, "enqueue", lambda self: None)
    return api(admin)


def carried(caller: Api, pk: int) -> Any:
    """The import once a worker has done its part."""
    import_run(Import.objects.get(pk=pk))
    return said(caller.get(f"{IMPORTS}/{pk}"))


def test_an_import_lives_as_on_the_page(caller: Api, project: Project) -> None:
    key = {"Idempotency-Key": "once"}
    upload = {"multipart": {"files": ROWS}}
    started = said(caller.post(IMPORTS, upload, headers=key), 202)
    assert said(caller.post(IMPORTS, upload, headers=key), 202) == started
    assert Import.objects.count() == 1
    assert (started["state"], started["dry_run"], started["preview"]) == ("queued", True, [])
    path = f"{IMPORTS}/{started['id']}"
    said(caller.get(f"{path}/mapping"), 409)

    row = carried(caller, started["id"])
    assert (row["state"], row["asks"]) == ("done", True)
    said(caller.post(f"{path}/confirm"), 409)
    shown = said(caller.get(f"{path}/mapping"))
    assert {*shown["columns"]} == {*ROLES}
    wrong = said(caller.put(f"{path}/mapping", {"roles": {"ask": "king", "more": ""}}), 422)
    assert {error["field"] for error in wrong["errors"]} >= {"roles", "roles.ask", "roles.more"}
    wrong = said(caller.put(f"{path}/mapping", {"roles": ROLES, "winner": {"one": "a"}}), 422)
    assert wrong["errors"][0]["field"] == "winner.neither"
    mapping = {"roles": ROLES, "winner": {"one": "a", "neither": "both_bad"}}
    assert said(caller.put(f"{path}/mapping", mapping))["state"] == "queued"

    row = carried(caller, started["id"])
    assert row["report"]["counts"]["votes"]["new"] == 2
    assert row["preview"][0]["sides"][0]["text"] == "Paris"
    assert row["report"]["left_out"] == 1
    assert b'"ask"' in b"".join(caller.get(f"{path}/errors").streaming_content)
    assert said(caller.post(f"{path}/confirm"))["dry_run"] is False
    row = carried(caller, started["id"])
    assert (row["state"], project.pairs.count()) == ("done", 2)
    assert said(caller.get(IMPORTS))["items"][0]["id"] == row["id"]
    said(caller.post(f"{path}/cancel"), 409)
    said(caller.delete(path), 409)
    assert said(caller.post(f"{path}/undo"))["undone_at"]
    assert project.pairs.count() == 0
    assert "before" in said(caller.post(f"{path}/undo"), 409)["detail"]


def test_what_is_refused_thrown_away_or_cancelled(
    caller: Api, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(caller.post(IMPORTS, {"multipart": {"format": "auto"}}), 422)["errors"][0]["field"] == "files"
    wrong = said(caller.post(IMPORTS, {"multipart": {"files": ROWS, "format": "word"}}), 422)
    assert wrong["errors"][0]["field"] == "format"
    monkeypatch.setattr(settings, "MAX_UPLOAD_BYTES", 10)
    assert said(caller.post(IMPORTS, {"multipart": {"files": ROWS}}), 422)["errors"][0]["field"] == "files"
    monkeypatch.undo()
    monkeypatch.setattr(Import, "enqueue", lambda self: None)
    started = said(caller.post(IMPORTS, {"multipart": {"files": ROWS}}), 202)
    path = f"{IMPORTS}/{started['id']}"
    assert said(caller.post(f"{path}/cancel"))["state"] == "cancelled"
    assert said(caller.post(f"{path}/retry"))["state"] == "queued"
    said(caller.post(f"{path}/cancel"))
    assert caller.delete(path).status_code == 204
    assert not Import.objects.exists()
    wrong = said(caller.post(f"{IMPORTS}/address", {"address": "http://169.254.169.254/"}), 422)
    assert wrong["errors"][0]["field"] == "address"
    project.archived_at = project.created_at
    project.save()
    said(caller.post(IMPORTS, {"multipart": {"files": ROWS}}), 409)
