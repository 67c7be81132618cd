"""A forgotten password, where mail is on; and nothing of it where it is off."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core import mail
from django.test import Client

from tests.accounts.test_operator import NEW
from tests.accounts.test_throttling import RIGHT, sign_in
from tests.instance import REPOSITORY, own_environment
from webapp.accounts import forms
from webapp.accounts.models import User


def sent() -> list[Any]:
    """The mail that was sent, once all of it is."""
    forms.mailing.submit(lambda: None).result()
    return mail.outbox


@pytest.fixture
def on(settings: Any) -> None:
    settings.MAIL_IS_ON = True


@pytest.fixture
def uma(make_user: Callable[..., User]) -> User:
    return make_user("uma", email="uma@example.org")


def test_off_there_is_no_such_thing(uma: User, client_of: Callable[[User], Client]) -> None:
    assert "orgotten" not in Client().get("/sign-in/").content.decode()
    assert Client().get("/forgotten/").status_code == 404
    assert Client().post("/forgotten/", {"email": "uma@example.org"}).status_code == 404
    client = client_of(uma)
    assert "E-mail" not in client.get("/account/").content.decode()
    assert client.post("/account/email/", {"email": "x@example.org", "password": RIGHT}).status_code == 404


def test_a_link_comes_by_mail_and_works_once(on: None, uma: User) -> None:
    assert "/forgotten/" in Client().get("/sign-in/").content.decode()
    answer = Client().post("/forgotten/", {"email": "UMA@example.org"}, follow=True)
    assert "Look into your mail" in answer.content.decode()
    (message,) = sent()
    assert message.to == ["uma@example.org"]
    assert message.subject == "A new password for Caliper"
    link = re.search(r"http://testserver(/reset/\S+)", message.body)[1]  # type: ignore[index]
    visitor = Client()
    assert visitor.post(visitor.get(link)["Location"], NEW).status_code == 302
    assert sign_in("uma", NEW["new_password1"]).status_code == 302
    assert "can't be used" in Client().get(link).content.decode()


def test_nobody_learns_whether_an_address_is_known(
    on: None, uma: User, make_user: Callable[..., User], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_user("gone", email="gone@example.org", is_active=False)
    # A slow mail server must not tell it either.
    monkeypatch.setattr("django.core.mail.EmailMultiAlternatives.send", lambda *_, **__: time.sleep(0.4))
    answers = []
    for address in ("uma@example.org", "gone@example.org", "nobody@example.org"):
        began = time.monotonic()
        answer = Client().post("/forgotten/", {"email": address}, follow=True)
        assert time.monotonic() - began < 0.3
        page = re.sub(r'"X-CSRFToken": "\w+"', "", answer.content.decode())
        answers.append((answer.redirect_chain, page))
    assert answers[0] == answers[1] == answers[2]
    sent()


def test_nobody_is_flooded(on: None, uma: User) -> None:
    for _ in range(3):
        Client().post("/forgotten/", {"email": "uma@example.org"})
    assert len(sent()) == 1


def test_the_address_changes_against_the_password_alone(
    on: None, uma: User, client_of: Callable[[User], Client]
) -> None:
    client = client_of(uma)
    page = client.post("/account/email/", {"email": "eve@example.org", "password": "wrong"})
    assert page.status_code == 422
    assert "That is not your password" in page.content.decode()
    assert client.post("/account/email/", {"email": "nonsense", "password": RIGHT}).status_code == 422
    assert User.objects.get().email == "uma@example.org"
    client.post("/account/email/", {"email": "uma@example.net", "password": RIGHT})
    assert User.objects.get().email == "uma@example.net"


def test_the_setting_is_an_address_of_a_server(tmp_path: Path) -> None:
    show = "from django.conf import settings as s; print(s.EMAIL_BACKEND, s.EMAIL_HOST, s.EMAIL_PORT, s.EMAIL_USE_TLS)"
    environment = own_environment(tmp_path) | {
        "CALIPER_EMAIL_URL": "smtp+tls://caliper:secret@mail.example.org:587",
        "DJANGO_SETTINGS_MODULE": "webapp.settings",
    }
    result = subprocess.run(
        [sys.executable, "-c", show],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split()[1:] == ["mail.example.org", "587", "True"]
