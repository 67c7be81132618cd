"""What docs/security.md says of sessions, cookies, headers and errors, seen from outside."""

import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from tests.instance import REPOSITORY, own_environment
from webapp.accounts.models import User
from webapp.corpus.models import Project

PASSWORD = "correct horse battery"


def sign_in(client: Client, name: str, **more: str) -> Any:
    return client.post("/sign-in/", {"username": name, "password": PASSWORD, **more})


def test_signing_in_gives_a_new_session(admin: User) -> None:
    client = Client()
    client.cookies["sessionid"] = "k" * 32  # a key that somebody else chose
    assert sign_in(client, "adam").status_code == 302
    key = client.cookies["sessionid"].value
    assert key != "k" * 32
    assert len(key) == 32
    client.post("/sign-out/")
    client.cookies["sessionid"] = key
    assert client.get("/account/").status_code == 302


@pytest.mark.parametrize("place", ["https://evil.example/", "//evil.example", "javascript:alert(1)"])
def test_signing_in_leads_nowhere_else(admin: User, place: str) -> None:
    assert sign_in(Client(), "adam", next=place).headers["Location"] == "/"


SHOW = """
from django.conf import settings
from django.test import Client
from webapp.accounts.models import User
User.objects.create_user("adam", password="correct horse battery")
client = Client(headers={"host": "localhost"})
data = {"username": "adam", "password": "correct horse battery"}
answer = client.post("/sign-in/", data, secure=True, headers={"X-Forwarded-Proto": "https"})
for cookie in answer.cookies.values():
    print(cookie.OutputString())
print("HSTS", answer.headers["Strict-Transport-Security"])
"""


def test_cookies_behind_tls(tmp_path: Path) -> None:
    environment = own_environment(tmp_path) | {"CALIPER_BEHIND_TLS": "true"}
    for words in (["migrate", "-v0"], ["collectstatic", "-v0", "--noinput"]):
        subprocess.run([sys.executable, "manage.py", *words], cwd=REPOSITORY, env=environment, check=True)
    told = subprocess.run(
        [sys.executable, "manage.py", "shell", "-v0", "-c", SHOW],
        cwd=REPOSITORY,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    (session,) = [line for line in told.splitlines() if line.startswith("sessionid=")]
    for word in ("Secure", "HttpOnly", "SameSite=Lax", "Path=/"):
        assert word in session.split("; ")
    (csrf,) = [line for line in told.splitlines() if line.startswith("csrftoken=")]
    assert "Secure" in csrf.split("; ")
    assert "HSTS max-age=3600" in told


def test_an_error_tells_no_cause(
    project: Project, admin: User, client_of: Callable[[User], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*words: Any, **named: Any) -> None:
        raise RuntimeError("secret-of-the-server")

    monkeypatch.setattr("webapp.corpus.views.render", broken)
    client = client_of(admin)
    client.raise_request_exception = False
    answer = client.get(f"/p/{project.slug}/people/")
    assert answer.status_code == 500
    for secret in ("secret-of-the-server", "Traceback", "RuntimeError", os.fspath(REPOSITORY)):
        assert secret not in answer.text
    assert {"Server", "X-Powered-By"}.isdisjoint(answer.headers)


@pytest.mark.parametrize("path", ["/sign-in/", "/p/capitals/", "/p/capitals/people/", "/nowhere/"])
def test_every_answer_has_the_headers(
    project: Project, admin: User, client_of: Callable[[User], Client], path: str
) -> None:
    answer = client_of(admin).get(path) if path != "/sign-in/" else Client().get(path)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert not [name for name in answer.headers if name.startswith("Access-Control-")]


def test_a_page_is_sent_compressed_and_its_size_tells_nothing(
    project: Project, admin: User, client_of: Callable[[User], Client]
) -> None:
    """The answer to BREACH: a name of random length stands in the compressed page (its flag is 8)."""
    client, accepts = client_of(admin), {"Accept-Encoding": "gzip, deflate, br"}
    answers = [client.get("/p/capitals/people/", headers=accepts) for _ in range(6)]
    assert {answer.headers["Content-Encoding"] for answer in answers} == {"gzip"}
    assert {answer.content[3] for answer in answers} == {8}
    assert len({answer.content.index(0, 10) for answer in answers}) > 1
    assert b"adam" in gzip.decompress(answers[0].content)
    assert answers[0].headers["Content-Length"] == str(len(answers[0].content))
    assert answers[0].headers["Cache-Control"] == "no-store, private"
    assert "Accept-Encoding" in answers[0].headers["Vary"]
    assert "Content-Encoding" not in client.get("/p/capitals/people/").headers
    assert "Content-Encoding" not in client.get("/healthz", headers=accepts).headers  # short


@pytest.mark.parametrize(
    "page", ["people/remove/", "runs/start/", "annotate/undo/", "imports/1/confirm/", "versions/1/promote/"]
)
def test_changes_need_a_post(
    project: Project, admin: User, client_of: Callable[[User], Client], page: str
) -> None:
    for method in ("get", "put", "delete"):
        assert getattr(client_of(admin), method)(f"/p/{project.slug}/{page}").status_code == 405
