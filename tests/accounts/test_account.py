"""Signing in, and one's own account."""

from collections.abc import Callable

from django.test import Client

from webapp.accounts.models import User


def test_sign_in_and_out(make_user: Callable[..., User]) -> None:
    make_user("uma")
    client = Client()
    wrong = client.post("/sign-in/", {"username": "uma", "password": "wrong"})
    assert "go together" in wrong.content.decode()
    right = client.post("/sign-in/", {"username": "uma", "password": "correct horse battery"})
    assert right["Location"] == "/"
    assert client.get("/").status_code == 200
    client.post("/sign-out/")
    assert client.get("/")["Location"].startswith("/sign-in/")


def test_imported_annotators_cannot_sign_in(make_user: Callable[..., User]) -> None:
    user = make_user("w1", kind="imported", is_active=False)
    user.set_unusable_password()
    user.save()
    answer = Client().post("/sign-in/", {"username": "w1", "password": "correct horse battery"})
    assert answer.status_code == 200


def test_change_password_keeps_this_session(make_user: Callable[..., User]) -> None:
    client = Client()
    client.force_login(make_user("uma"))
    new = "an entirely new one"
    form = {"old_password": "correct horse battery", "new_password1": new, "new_password2": new}
    assert "is changed" in client.post("/account/", form, follow=True).content.decode()
    assert User.objects.get(username="uma").check_password(new)


def test_simulated_annotators_are_named_as_such(make_user: Callable[..., User]) -> None:
    assert make_user("ada", kind="simulated").display_name == "ada (simulated)"


def test_pages_carry_a_strict_policy(make_user: Callable[..., User]) -> None:
    policy = Client().get("/sign-in/")["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
