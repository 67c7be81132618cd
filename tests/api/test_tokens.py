"""Tokens: made once, shown once, counted only while they live; by page, by the operator and by command."""

import re
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from django.core.cache import caches
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from tests.api.conftest import Api, said
from webapp.accounts.models import ApiToken, User
from webapp.accounts.services import Refused, user_deactivate
from webapp.api import limits
from webapp.api.tokens import token_make
from webapp.corpus.models import AuditEntry, Membership, Project

ClientOf = Callable[[User], Client]
MakeApi = Callable[..., Api]


def secret_in(page: str) -> str:
    found = re.search(r'value="(cal_[\w-]{43})"', page)
    assert found
    return found[1]


def test_a_token_is_shown_once_and_revoked(
    project: Project, admin: User, stranger: User, client_of: ClientOf
) -> None:
    client = client_of(admin)
    form = {"name": "the server", "scopes": ["score", "read"], "days": "30", "project": "capitals"}
    secret = secret_in(client.post("/account/tokens/", form).content.decode())
    token = ApiToken.objects.get()
    assert (token.scopes, token.project_slug) == (["read", "score"], "capitals")
    assert token.expires_at
    assert timedelta(days=29) < token.expires_at - timezone.now() < timedelta(days=30)
    assert secret not in {token.digest, token.prefix}
    assert secret.startswith(token.prefix)
    page = client.get("/account/tokens/").content.decode()
    assert secret not in page
    assert "the server" in page
    assert "never used" in page
    assert said(Api(secret).get("/me"))["token"]["project"] == "capitals"
    assert "never used" not in client.get("/account/tokens/").content.decode()
    assert client_of(stranger).post(f"/account/tokens/{token.pk}/revoke/").status_code == 404
    client.post(f"/account/tokens/{token.pk}/revoke/")
    assert said(Api(secret).get("/me"), 401)["title"] == "Not signed in"
    assert "the server" in client.get("/account/tokens/").content.decode(), "among those that count no more"
    made, revoked = AuditEntry.objects.order_by("pk")
    assert (made.action, revoked.action) == ("token-made", "token-revoked")
    assert made.project == project
    assert secret not in str(made.detail)
    bad = client.post("/account/tokens/", {"name": "", "days": "31", "project": "nowhere"})
    assert bad.status_code == 422
    assert set(bad.context["form"].errors) == {"name", "scopes", "days", "project"}


def test_only_a_live_token_of_somebody_active_counts(admin: User, api: MakeApi, client_of: ClientOf) -> None:
    caller = api(admin)
    assert said(caller.get("/me"))["username"] == "adam"
    no_token = Api()
    no_token.client = client_of(admin)
    answer = no_token.get("/me")
    assert "you make one" in said(answer, 401)["detail"].lower(), "a session is no token"
    assert answer["WWW-Authenticate"] == 'Bearer realm="Caliper"'
    right = caller.headers["Authorization"]
    for wrong in (
        "Bearer",
        "Bearer cal_x",
        right[:-1] + ("A" if right[-1] != "A" else "B"),
        "Basic " + right[7:],
    ):
        answer = no_token.get("/me", headers={"Authorization": wrong})
        assert "invalid_token" in answer["WWW-Authenticate"]
        said(answer, 401)
    ApiToken.objects.update(expires_at=timezone.now())
    said(caller.get("/me"), 401)
    ApiToken.objects.update(expires_at=timezone.now() + timedelta(days=1))
    said(caller.get("/me"))
    user_deactivate(user=admin)
    said(caller.get("/me"), 401)
    with pytest.raises(Refused):
        token_make(user=User.objects.get(pk=admin.pk), name="x", scopes=["read"], actor="test")


def test_a_token_of_one_project_opens_no_other(project: Project, admin: User, api: MakeApi) -> None:
    other = Project.objects.create(slug="other", name="Other")
    Membership.objects.create(project=other, user=admin, role="admin")
    User.objects.filter(pk=admin.pk).update(is_staff=True)
    caller = api(admin, project=project)
    said(caller.get("/projects/capitals"))
    said(caller.get("/projects/other"), 404)
    assert [each["slug"] for each in said(caller.get("/projects"))["items"]] == ["capitals"]
    assert [each["slug"] for each in said(caller.get("/me"))["projects"]] == ["capitals"]
    said(caller.post("/projects", {"name": "New", "slug": "new"}), 403)
    assert {each["slug"] for each in said(api(admin).get("/projects"))["items"]} == {"capitals", "other"}


def test_operators_see_and_revoke(
    project: Project, admin: User, make_user: Callable[..., User], client_of: ClientOf
) -> None:
    token, secret = token_make(user=admin, name="a laptop", scopes=["read"], actor=admin)
    client = client_of(make_user("root", is_superuser=True, is_staff=True))
    assert "a laptop" in client.get(f"/accounts/{admin.pk}/").content.decode()
    assert client.post(f"/account/tokens/{token.pk}/revoke/").headers["Location"] == f"/accounts/{admin.pk}/"
    said(Api(secret).get("/me"), 401)
    assert AuditEntry.objects.get(action="token-revoked").actor_name == "root"


def test_the_command_prints_the_token_alone(project: Project, admin: User) -> None:
    def make(*words: str) -> str:
        out = StringIO()
        call_command("accounts", "token", "adam", *words, stdout=out)
        return out.getvalue().strip()

    first = make("--scopes", "score", "read", "--days", "7", "--project", "capitals", "--name", "server")
    assert said(Api(first).get("/me"))["token"]["scopes"] == ["read", "score"]
    second = make("--scopes", "score", "--name", "server", "--replace")
    said(Api(first).get("/me"), 401)
    said(Api(second).get("/me"))
    for wrong in ("score --project nowhere", "score --days 0", "all"):
        with pytest.raises(CommandError):
            make("--scopes", *wrong.split())


def test_a_token_may_ask_so_often(
    admin: User, api: MakeApi, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "time", SimpleNamespace(time=lambda: 1_000_000_040.0))
    settings.API_PER_MINUTE = 2
    caller = api(admin)
    assert caller.get("/me")["RateLimit-Remaining"] == "1"
    caller.get("/me")
    answer = caller.get("/me")
    assert "Wait 40 seconds" in said(answer, 429)["detail"]
    assert (answer["Retry-After"], answer["RateLimit-Remaining"], answer["RateLimit-Limit"]) == (
        "40",
        "0",
        "2",
    )
    said(api(admin).get("/me"))
    monkeypatch.setattr(limits, "time", SimpleNamespace(time=lambda: 1_000_000_080.0))
    said(caller.get("/me"))


def silent() -> Any:
    raise redis.ConnectionError("no broker here")


def test_unknown_tokens_are_counted_by_address(
    admin: User, api: MakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "time", SimpleNamespace(time=lambda: 2_000_000_000.0))
    monkeypatch.setattr("webapp.api.auth.FAILURES_PER_MINUTE", 2)
    # Other tests come from the same address: here this process counts for itself.
    monkeypatch.setattr(limits, "redis_kept", silent)
    caches["local"].clear()
    wrong = Api("cal_" + "x" * 43)
    assert [wrong.get("/me").status_code for _ in range(3)] == [401, 401, 429]
    # Whoever has a real one behind the same address is not kept out.
    said(api(admin).get("/me"))
