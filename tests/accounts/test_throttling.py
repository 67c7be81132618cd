"""Guessing is counted, refused without hashing, logged with the address, and keeps nobody out of their account."""

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from axes.models import AccessAttempt
from django.contrib.auth.hashers import MD5PasswordHasher
from django.http import HttpRequest
from django.test import Client
from django.utils import timezone

from webapp.accounts import addresses, services, throttling
from webapp.accounts.models import User

RIGHT = "correct horse battery"
MakeUser = Callable[..., User]


def sign_in(name: str, password: str = "wrong", *, address: str = "192.0.2.1", **more: str) -> Any:
    return Client(REMOTE_ADDR=address, **more).post("/sign-in/", {"username": name, "password": password})


def fail(times: int, name: str, **more: str) -> None:
    for _ in range(times):
        sign_in(name, **more)


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every password that is hashed from now on."""
    hashed: list[str] = []
    encode = MD5PasswordHasher.encode

    def counted(self: MD5PasswordHasher, password: str, salt: str) -> str:
        hashed.append(password)
        return encode(self, password, salt)

    monkeypatch.setattr(MD5PasswordHasher, "encode", counted)
    return hashed


def test_too_many_failures_are_refused_without_hashing(
    make_user: MakeUser, hashes: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    make_user("uma")
    hashes.clear()
    with caplog.at_level(logging.WARNING):
        answers = [sign_in("uma").status_code for _ in range(throttling.PAIR_LIMIT)]
    assert answers == [200] * (throttling.PAIR_LIMIT - 1) + [429]
    assert len(hashes) == throttling.PAIR_LIMIT
    locked = sign_in("uma", RIGHT)
    assert locked.status_code == 429
    assert locked["Retry-After"] == "900"
    assert "For 15 minutes no password is tried" in locked.content.decode()
    assert len(hashes) == throttling.PAIR_LIMIT, "a refused try must cost nothing"
    said = [record.getMessage() for record in caplog.records if record.name == throttling.__name__]
    assert said[0] == "sign-in failed: name 'uma' from 192.0.2.1"
    assert said[-1] == "sign-in refused after too many failures: name 'uma' from 192.0.2.1"
    assert len(said) == throttling.PAIR_LIMIT + 1
    assert RIGHT not in caplog.text


def test_the_wait_ends_however_often_somebody_tries_meanwhile(make_user: MakeUser) -> None:
    make_user("uma")
    fail(throttling.PAIR_LIMIT, "uma")
    locked_at = AccessAttempt.objects.get().attempt_time
    fail(3, "uma")
    attempt = AccessAttempt.objects.get()
    assert (attempt.attempt_time, attempt.failures_since_start) == (locked_at, throttling.PAIR_LIMIT)
    AccessAttempt.objects.update(attempt_time=timezone.now() - timedelta(minutes=15, seconds=1))
    assert sign_in("uma", RIGHT).status_code == 302
    assert not AccessAttempt.objects.exists()


def try_on(client: Client, name: str, password: str) -> int:
    client.cookies.pop("sessionid", None)
    return client.post("/sign-in/", {"username": name, "password": password}).status_code


def test_many_addresses_together_get_no_more_than_one_name_allows(make_user: MakeUser) -> None:
    make_user("uma")
    per_address = throttling.PAIR_LIMIT - 1
    for number in range(-(-throttling.NAME_LIMIT // per_address)):
        fail(per_address, "uma", address=f"203.0.113.{number}")
    assert sign_in("uma", RIGHT, address="203.0.113.200").status_code == 429


def test_a_stranger_keeps_nobody_out(make_user: MakeUser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even from the same address, where the person has signed in on this device before."""
    make_user("uma")
    monkeypatch.setattr(throttling, "ADDRESS_LIMIT", 8)
    own = Client(REMOTE_ADDR="192.0.2.1")
    assert try_on(own, "uma", RIGHT) == 302
    assert own.cookies[throttling.DEVICE_COOKIE]["httponly"]
    for number in range(throttling.NAME_LIMIT):
        fail(1, "uma", address=f"203.0.113.{number}")
    fail(throttling.PAIR_LIMIT, "uma")
    fail(8, "nobody")
    assert sign_in("uma", RIGHT).status_code == 429
    assert try_on(own, "uma", RIGHT) == 302
    assert sign_in("uma", RIGHT).status_code == 429, "the owner's sign-in forgives the stranger nothing"


def test_a_known_device_is_no_way_to_guess(make_user: MakeUser) -> None:
    for name in ("uma", "eve"):
        make_user(name)
    own = Client()
    assert try_on(own, "uma", RIGHT) == 302
    assert [try_on(own, "uma", "wrong") for _ in range(5)] == [200] * 4 + [429]
    assert try_on(own, "uma", RIGHT) == 429
    # Eve's device is known for Eve alone, and a cookie that was tampered with for nobody.
    hers = Client(REMOTE_ADDR="192.0.2.66")
    assert try_on(hers, "eve", RIGHT) == 302
    assert [try_on(hers, "uma", "wrong") for _ in range(5)][-1] == 429
    hers.cookies[throttling.DEVICE_COOKIE] = "x" + hers.cookies[throttling.DEVICE_COOKIE].value
    assert try_on(hers, "eve", RIGHT) == 302


def test_a_shared_device_is_known_for_the_latest_few(make_user: MakeUser) -> None:
    shared = Client()
    for number in range(throttling.DEVICE_NAMES + 1):
        make_user(f"person{number}")
        try_on(shared, f"person{number}", RIGHT)
    request = HttpRequest()
    request.COOKIES = {throttling.DEVICE_COOKIE: shared.cookies[throttling.DEVICE_COOKIE].value}
    known = [
        throttling.device_of(request, f"person{number}") for number in range(throttling.DEVICE_NAMES + 1)
    ]
    assert known[0] is None
    assert len(set(known[1:])) == 1
    assert known[1]


def test_one_address_cannot_try_many_names(make_user: MakeUser, monkeypatch: pytest.MonkeyPatch) -> None:
    make_user("uma")
    make_user("own")
    monkeypatch.setattr(throttling, "ADDRESS_LIMIT", 8)
    for number in range(7):
        assert sign_in(f"nobody{number}").status_code == 200
    # A right password forgives that name's failures alone: an account of one's own is no way around the count.
    assert sign_in("own", RIGHT).status_code == 302
    assert sign_in("nobody7").status_code == 429
    assert sign_in("uma", RIGHT).status_code == 429
    assert sign_in("uma", RIGHT, address="192.0.2.2").status_code == 302


def test_another_browser_is_the_same_guesser(make_user: MakeUser) -> None:
    make_user("uma")
    for number in range(throttling.PAIR_LIMIT):
        sign_in("uma", HTTP_USER_AGENT=f"browser {number}")
    assert sign_in("uma", RIGHT).status_code == 429


def test_a_session_left_open_is_no_way_to_guess_the_password(
    make_user: MakeUser, client_of: Callable[[User], Client], hashes: list[str]
) -> None:
    client = client_of(make_user("uma"))
    form = {"new_password1": "an entirely new one", "new_password2": "an entirely new one"}
    answers = [
        client.post("/account/", {**form, "old_password": f"guess {number}"}).status_code
        for number in range(throttling.PAIR_LIMIT)
    ]
    assert answers == [422] * (throttling.PAIR_LIMIT - 1) + [429]
    hashes.clear()
    assert client.post("/account/", {**form, "old_password": RIGHT}).status_code == 429
    assert hashes == []


def test_names_and_forms_leave_no_second_line_and_no_password(
    make_user: MakeUser, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        sign_in("uma\nWARNING all is well", "hunter2 hunter2")
    (line,) = [record.getMessage() for record in caplog.records if record.name == throttling.__name__]
    assert "\n" not in line
    attempt = AccessAttempt.objects.get()
    assert "hunter2" not in f"{attempt.post_data}{attempt.get_data}"


def test_a_proxy_that_tells_no_address_is_told_of(
    make_user: MakeUser, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.BEHIND_TLS = True
    sign_in("uma")
    assert "the proxy sends no X-Forwarded-For" in caplog.text


def test_what_is_not_counted_any_more_is_swept(make_user: MakeUser) -> None:
    make_user("uma")
    sign_in("uma")
    assert services.accounts_sweep() == 0
    AccessAttempt.objects.update(attempt_time=timezone.now() - timedelta(minutes=16))
    assert services.accounts_sweep() == 1
    assert not AccessAttempt.objects.exists()


@pytest.mark.parametrize(
    ("behind_tls", "remote", "forwarded", "expected"),
    [
        (False, "192.0.2.1", "203.0.113.9", "192.0.2.1"),
        (True, "10.0.0.2", "203.0.113.9", "203.0.113.9"),
        (True, "10.0.0.2", "127.0.0.1, 203.0.113.9", "203.0.113.9"),
        (True, "10.0.0.2", None, "10.0.0.2"),
        (True, "10.0.0.2", "nonsense", None),
        (False, "", None, None),
        (False, "2001:db8:1:2:3:4:5:6", None, "2001:db8:1:2::"),
        (False, "::ffff:192.0.2.1", None, "192.0.2.1"),
    ],
)
def test_the_address(
    settings: Any, behind_tls: bool, remote: str, forwarded: str | None, expected: str | None
) -> None:
    settings.BEHIND_TLS = behind_tls
    request = HttpRequest()
    request.META = {"REMOTE_ADDR": remote} | ({"HTTP_X_FORWARDED_FOR": forwarded} if forwarded else {})
    assert addresses.counted_address(request) == expected


def test_a_name_that_is_longer_than_any_is_refused_without_hashing(hashes: list[str], db: None) -> None:
    answer = sign_in("9" * 5000)
    assert answer.status_code == 200
    assert "don't go together" in answer.content.decode()
    assert not hashes
