"""Single sign-on and second factor, as test_sso.py runs them: in a process whose settings have one or both on."""

import base64
import hashlib
import hmac
import html
import re
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from django.conf import settings as live
from django.core.cache import cache
from django.core.checks import run_checks
from django.test import Client

from tests.accounts.provider import Provider
from tests.accounts.test_sessions import is_signed_in
from webapp.accounts.models import User
from webapp.corpus import services
from webapp.corpus.models import Membership, Project

RIGHT = "correct horse battery"
PERSON = {
    "sub": "248289761001",
    "email": "jo@example.org",
    "email_verified": True,
    "name": "Jo March",
    "preferred_username": "jo",
}

with_oidc = pytest.mark.skipif(not live.OIDC_ISSUER, reason="single sign-on is off")
with_codes = pytest.mark.skipif(not live.TOTP, reason="the second factor is off")


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider(urlsplit(live.OIDC_ISSUER).port)
    provider.person = dict(PERSON)
    yield provider
    provider.close()


@pytest.fixture(autouse=True)
def fresh_limits(db: None) -> None:
    cache.clear()


def sign_in_at_provider(client: Client, form: str = "/sso/oidc/login/") -> Any:
    """Press the button, let the provider send the browser back, and follow to the end."""
    page = client.post(form)
    assert page.status_code == 200, page.headers
    onward = html.unescape(re.search(r'<a href="([^"]+)">go there', page.content.decode())[1])  # type: ignore[index]
    assert onward.startswith(f"{live.OIDC_ISSUER}/authorize?")
    back = requests.get(onward, allow_redirects=False, timeout=5).headers["Location"]
    parts = urlsplit(back)
    assert (parts.netloc, parts.path) == ("testserver", "/sso/oidc/login/callback/")
    return client.get(f"{parts.path}?{parts.query}", follow=True)


def code_now(secret: str) -> str:
    """What a telephone shows (RFC 6238)."""
    counter = struct.pack(">Q", int(time.time()) // 30)
    digest = hmac.new(base64.b32decode(secret), counter, hashlib.sha1).digest()
    (value,) = struct.unpack_from(">I", digest, digest[-1] & 15)
    return f"{(value & 0x7FFFFFFF) % 10**6:06}"


def enrol(client: Client, password: str = RIGHT) -> tuple[str, list[str]]:
    """Set up the second factor of whoever is signed in: its secret and the recovery codes."""
    page = client.get("/sso/codes/totp/activate/", follow=True)
    if page.redirect_chain:
        page = client.post(page.redirect_chain[-1][0], {"password": password}, follow=True)
    secret = page.context["form"].secret
    page = client.post("/sso/codes/totp/activate/", {"code": code_now(secret)}, follow=True)
    assert page.status_code == 200
    return secret, page.context["unused_codes"]


def test_the_settings_contradict_nothing() -> None:
    assert [
        message.id for message in run_checks() if "caliper" in str(message.id) or message.is_serious()
    ] == []


@with_oidc
def test_somebody_new_gets_an_account_without_a_project(provider: Provider) -> None:
    client = Client()
    page = client.get("/sign-in/").content.decode()
    assert "Sign in by Our House" in page
    end = sign_in_at_provider(client)
    assert end.redirect_chain[-1][0] == "/"
    assert "not a member of any project yet" in end.content.decode()
    user = User.objects.get()
    assert (user.username, user.get_full_name(), user.email) == ("jo", "Jo March", "jo@example.org")
    assert not user.has_usable_password()
    assert (user.is_staff, user.is_superuser) == (False, False)
    account = client.get("/account/").content.decode()
    assert "You have no password here" in account
    assert "You can sign in by Our House" in account


@with_oidc
def test_the_same_person_is_found_by_the_subject_alone(provider: Provider) -> None:
    sign_in_at_provider(Client())
    provider.person |= {"email": "josephine@example.org", "preferred_username": "josephine"}
    again = Client()
    sign_in_at_provider(again)
    assert User.objects.count() == 1
    assert is_signed_in(again)


@with_oidc
@pytest.mark.parametrize("verified", [True, False])
def test_an_address_opens_nobodys_account(
    provider: Provider, make_user: Callable[..., User], verified: bool
) -> None:
    """Addresses here are not proven: whoever wrote Jo's into their account must not get Jo's sign-in, nor Jo theirs."""
    make_user("jo", email="jo@example.org", is_superuser=True)
    provider.person["email_verified"] = verified
    sign_in_at_provider(Client())
    assert User.objects.count() == 2
    newcomer = User.objects.exclude(username="jo").get()
    assert not newcomer.is_superuser
    assert newcomer.username != "jo"


@with_oidc
def test_an_invitation_survives_the_sign_in(provider: Provider, project: Project, admin: User) -> None:
    token = services.invitation_create(project=project, role="annotator", note="", created_by=admin).token
    client = Client()
    assert f"/sign-in/?next=/join/{token}/" in client.get(f"/join/{token}/").content.decode()
    page = client.get(f"/sign-in/?next=/join/{token}/").content.decode()
    form = html.unescape(re.search(r'action="(/sso/oidc/login/[^"]*)"', page)[1])  # type: ignore[index]
    end = sign_in_at_provider(client, form)
    assert end.redirect_chain[-1][0] == f"/join/{token}/"
    client.post(f"/join/{token}/")
    assert Membership.objects.get(user__username="jo").role == "annotator"


@with_oidc
def test_no_way_out_to_another_site(provider: Provider) -> None:
    end = sign_in_at_provider(Client(), "/sso/oidc/login/?next=https://evil.example/")
    assert end.redirect_chain[-1][0] == "/"


@with_oidc
def test_somebody_with_an_account_connects_it(provider: Provider, make_user: Callable[..., User]) -> None:
    make_user("uma")
    client = Client()
    client.post("/sign-in/", {"username": "uma", "password": RIGHT})
    page = client.get("/account/").content.decode()
    form = html.unescape(re.search(r'action="(/sso/oidc/login/[^"]*)"', page)[1])  # type: ignore[index]
    end = sign_in_at_provider(client, form)
    assert end.redirect_chain[-1][0] == "/account/"
    assert "Our House" in client.get("/sso/connected/").content.decode()
    other = Client()
    sign_in_at_provider(other)
    assert User.objects.count() == 1
    assert "You sign in as <strong>uma</strong>" in other.get("/account/").content.decode()


@with_oidc
def test_the_deactivated_stay_out(provider: Provider) -> None:
    sign_in_at_provider(Client())
    User.objects.update(is_active=False)
    client = Client()
    end = sign_in_at_provider(client)
    assert "deactivated" in end.content.decode()
    assert not is_signed_in(client)


@with_oidc
@pytest.mark.parametrize("claims", [{"aud": "another"}, {"iss": "http://evil.example"}, {"exp": 1}])
def test_a_token_for_somebody_else_is_refused(provider: Provider, claims: dict[str, Any]) -> None:
    provider.claims = claims
    client = Client()
    end = sign_in_at_provider(client)
    assert "did not work" in end.content.decode()
    assert not is_signed_in(client)
    assert not User.objects.exists()


@with_oidc
def test_an_answer_nobody_asked_for_is_refused(provider: Provider) -> None:
    client = Client()
    client.get("/sso/oidc/login/callback/?code=1&state=made-up")
    assert not is_signed_in(client)
    # And a link on another page begins nothing: that takes the button.
    assert "go there yourself" not in client.get("/sso/oidc/login/").content.decode()
    for name in ("another", "%00", "9" * 5000):
        assert client.post(f"/sso/{name}/login/").status_code == 404


@with_oidc
def test_a_provider_that_is_down_is_said(client: Client) -> None:
    page = client.post("/sso/oidc/login/")
    assert "did not work" in page.content.decode()


@with_codes
def test_the_second_factor(make_user: Callable[..., User]) -> None:
    from allauth.mfa.models import Authenticator

    make_user("uma")
    client = Client()
    client.post("/sign-in/", {"username": "uma", "password": RIGHT})
    assert is_signed_in(client)
    secret, recovery = enrol(client)
    assert len(recovery) == 10
    assert secret not in str(Authenticator.objects.filter(type="totp").values_list("data", flat=True))

    again = Client()
    asked = again.post(
        "/sign-in/?next=/account/", {"username": "uma", "password": RIGHT, "next": "/account/"}
    )
    assert asked["Location"] == "/sso/codes/authenticate/"
    assert not is_signed_in(again)
    assert "code" in again.get("/sso/codes/authenticate/").content.decode()
    again.post("/sso/codes/authenticate/", {"code": "000000"})
    assert not is_signed_in(again)
    cache.clear()  # the code that enrolled is spent, and half a minute is long
    right = again.post("/sso/codes/authenticate/", {"code": code_now(secret)})
    assert right["Location"] == "/account/"
    assert is_signed_in(again)

    lost = Client()
    lost.post("/sign-in/", {"username": "uma", "password": RIGHT})
    lost.post("/sso/codes/authenticate/", {"code": recovery[0]})
    assert is_signed_in(lost)
    reused = Client()
    reused.post("/sign-in/", {"username": "uma", "password": RIGHT})
    reused.post("/sso/codes/authenticate/", {"code": recovery[0]})
    assert not is_signed_in(reused)


@with_codes
def test_codes_cannot_be_guessed(make_user: Callable[..., User]) -> None:
    make_user("uma")
    client = Client()
    client.post("/sign-in/", {"username": "uma", "password": RIGHT})
    secret, _ = enrol(client)
    cache.clear()
    guesser = Client()
    guesser.post("/sign-in/", {"username": "uma", "password": RIGHT})
    for number in range(6):
        guesser.post("/sso/codes/authenticate/", {"code": f"00000{number}"})
    guesser.post("/sso/codes/authenticate/", {"code": code_now(secret)})
    assert not is_signed_in(guesser)


@with_oidc
@with_codes
def test_the_second_factor_is_asked_for_after_single_sign_on(
    provider: Provider, make_user: Callable[..., User]
) -> None:
    make_user("uma")
    client = Client()
    client.post("/sign-in/", {"username": "uma", "password": RIGHT})
    sign_in_at_provider(client, "/sso/oidc/login/?process=connect")
    enrol(client)
    again = Client()
    end = sign_in_at_provider(again)
    assert end.redirect_chain[-1][0] == "/sso/codes/authenticate/"
    assert not is_signed_in(again)


@with_oidc
@with_codes
def test_without_a_password_the_second_factor_is_the_providers(provider: Provider) -> None:
    client = Client()
    sign_in_at_provider(client)
    assert "/sso/codes/" not in client.get("/account/").content.decode()
    page = client.get("/sso/codes/totp/activate/")
    assert page.status_code == 403
    assert "your provider" in page.content.decode()


@with_codes
def test_the_operator_removes_a_lost_second_factor(
    make_user: Callable[..., User], client_of: Callable[[User], Client]
) -> None:
    uma = make_user("uma")
    client = Client()
    client.post("/sign-in/", {"username": "uma", "password": RIGHT})
    enrol(client)
    root = client_of(make_user("root", is_superuser=True))
    assert "Second factor lost" in root.get(f"/accounts/{uma.pk}/").content.decode()
    root.post(f"/accounts/{uma.pk}/second-factor/")
    again = Client()
    again.post("/sign-in/", {"username": "uma", "password": RIGHT})
    assert is_signed_in(again)


def test_throttling_holds_here_too(make_user: Callable[..., User]) -> None:
    make_user("uma")
    client = Client()
    for _ in range(5):
        client.post("/sign-in/", {"username": "uma", "password": "wrong"})
    assert client.post("/sign-in/", {"username": "uma", "password": RIGHT}).status_code == 429


@pytest.mark.parametrize("path", ["sign-up/", "signup/", "password/change/", "email/", "password/reset/"])
def test_no_other_door_of_the_library_is_open(path: str) -> None:
    assert Client().get(f"/sso/{path}").status_code == 404


@with_oidc
@with_codes
def test_all_pages_wear_the_house_style(provider: Provider, make_user: Callable[..., User]) -> None:
    make_user("uma")
    client = Client()
    client.post("/sign-in/", {"username": "uma", "password": RIGHT})
    enrol(client)
    for path in (
        "/sso/codes/",
        "/sso/codes/recovery-codes/",
        "/sso/codes/recovery-codes/generate/",
        "/sso/codes/totp/deactivate/",
        "/sso/connected/",
        "/sso/again/",
        "/sso/cancelled/",
        "/sso/error/",
        "/sso/inactive/",
    ):
        page = client.get(path, follow=True)
        assert page.status_code == (401 if path == "/sso/error/" else 200), path
        text = page.content.decode()
        assert "base.css" in text, path
        assert "<style" not in text, path
        assert "style=" not in text, path
        assert not re.search(r"<script(?![^>]*(src=|application/json))", text), path
