"""Where one is signed in: listed, ended, and no page left behind in a browser."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.sessions.models import Session
from django.core.cache import caches
from django.test import Client
from django.utils import timezone

from webapp.accounts import services
from webapp.accounts.devices import device_words
from webapp.accounts.models import User, UserSession

RIGHT = "correct horse battery"
FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:145.0) Gecko/20100101 Firefox/145.0"
PHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/18.0 Mobile/15E148 Safari/604.1"
)


@pytest.fixture
def uma(make_user: Callable[..., User]) -> User:
    return make_user("uma")


def signed_in(name: str = "uma", *, agent: str = FIREFOX, address: str = "192.0.2.1") -> Client:
    client = Client(HTTP_USER_AGENT=agent, REMOTE_ADDR=address)
    client.post("/sign-in/", {"username": name, "password": RIGHT})
    return client


def is_signed_in(client: Client) -> bool:
    return client.get("/account/").status_code == 200


def test_sessions_are_listed_with_device_and_address(uma: User) -> None:
    signed_in(agent=PHONE, address="2001:db8::7")
    page = signed_in().get("/account/").content.decode()
    assert "Firefox on Windows" in page
    assert "Safari on iPhone" in page
    assert "2001:db8::7" in page
    assert page.count("this one") == 1
    assert page.index("Firefox on Windows") < page.index("this one") < page.index("Safari on iPhone")
    keys = list(Session.objects.values_list("pk", flat=True))
    assert len(keys) == 2
    assert not any(key in page for key in keys), "a session's key opens it"


def test_one_is_ended_and_all_others_are(uma: User) -> None:
    here, phone, old = signed_in(), signed_in(agent=PHONE), signed_in()
    row = UserSession.objects.get(session=phone.session.session_key)
    assert here.post(f"/account/sessions/{row.pk}/end/").status_code == 302
    assert [is_signed_in(client) for client in (here, phone, old)] == [True, False, True]
    said = here.post("/account/sessions/end/", follow=True).content.decode()
    assert "Other devices were signed out: 1." in said
    assert [is_signed_in(client) for client in (here, old)] == [True, False]


def test_nobody_ends_anothers(uma: User, make_user: Callable[..., User]) -> None:
    make_user("eve")
    client = signed_in()
    row = UserSession.objects.get(user=uma)
    said = signed_in("eve").post(f"/account/sessions/{row.pk}/end/", follow=True).content.decode()
    assert "had ended already" in said
    assert is_signed_in(client)
    assert Client().post(f"/account/sessions/{row.pk}/end/")["Location"].startswith("/sign-in/")


def test_a_new_password_ends_the_others(uma: User) -> None:
    here, other = signed_in(), signed_in(agent=PHONE)
    new = {
        "old_password": RIGHT,
        "new_password1": "an entirely new one",
        "new_password2": "an entirely new one",
    }
    assert here.post("/account/", new).status_code == 302
    assert is_signed_in(here)
    assert not is_signed_in(other)
    assert UserSession.objects.get().session_id == here.session.session_key


def test_deactivation_ends_all_for_good(uma: User) -> None:
    client = signed_in()
    services.user_deactivate(user=uma)
    assert not is_signed_in(client)
    services.user_reactivate(user=uma)
    assert not is_signed_in(client)


def test_last_seen_is_written_once_a_minute(uma: User) -> None:
    client = signed_in()
    row = UserSession.objects.get()
    client.get("/account/")
    assert UserSession.objects.get().last_seen == row.last_seen
    caches["local"].delete(f"seen:{client.session.session_key}")
    client.get("/account/")
    again = UserSession.objects.get()
    assert again.last_seen > row.last_seen
    assert (again.pk, again.created_at) == (row.pk, row.created_at)


def test_signing_out_and_running_out_leave_no_row(uma: User) -> None:
    signed_in().post("/sign-out/")
    assert not UserSession.objects.exists()
    signed_in()
    Session.objects.update(expire_date=timezone.now() - timedelta(seconds=1))
    assert services.accounts_sweep() == 1
    assert not UserSession.objects.exists()


def test_pages_of_somebody_signed_in_are_not_stored(uma: User, client_of: Callable[[User], Client]) -> None:
    client = client_of(uma)
    for path in ("/", "/account/", "/p/nothing/"):
        assert client.get(path)["Cache-Control"] == "no-store, private", path
    # htmx keeps no copy of a page in the browser's storage either.
    assert '"historyCacheSize": 0' in client.get("/").content.decode()


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        ("", "an unknown browser"),
        ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/142.0 Safari/537.36", "Chrome on Linux"),
        (
            "Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 Chrome/142.0 Mobile Safari/537.36",
            "Chrome on Android",
        ),
        (
            "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/142.0 Safari/537.36 Edg/142.0",
            "Edge on Windows",
        ),
        ("python-requests/2.32", "a Python program"),
    ],
)
def test_devices_in_words(agent: str, words: str) -> None:
    assert device_words(agent) == words
