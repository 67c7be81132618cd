"""What passwords and names have to be, for new accounts; those that are there stay."""

from collections.abc import Callable

import pytest
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.test import Client

from webapp.accounts.models import User
from webapp.accounts.names import validate_no_lookalike
from webapp.corpus import services
from webapp.corpus.models import Project


@pytest.mark.parametrize(
    ("password", "says"),
    [
        ("eleven char", "at least 12"),
        ("4829103847562910", "entirely numeric"),
        (" " * 14, "nothing but white space"),
        ("　" * 14, "nothing but white space"),
        ("qwertyuiop123", "too common"),
        ("x7" * 64 + "y", "129 characters; at most 128"),
    ],
)
def test_a_weak_password_is_refused(password: str, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        validate_password(password)


@pytest.mark.parametrize("password", ["Überlänge 走れメロス ✓", "x7" * 64, " leading and trailing "])
def test_a_long_password_is_taken_whole(db: None, password: str) -> None:
    validate_password(password)
    user = User.objects.create_user("uma", password=password)
    assert user.check_password(password)
    assert not user.check_password(password[:-1])
    client = Client()
    assert client.post("/sign-in/", {"username": "uma", "password": password}).status_code == 302


def test_an_older_shorter_password_still_signs_in(db: None) -> None:
    User.objects.create_user("uma", password="4829103847")
    assert Client().post("/sign-in/", {"username": "uma", "password": "4829103847"}).status_code == 302


@pytest.mark.parametrize("name", ["аdm", "admіn", "οliver", "аса", "Ѕара", "ɑdmin", "ɡreta"])
def test_a_name_that_can_be_taken_for_another_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=r"one alphabet|taken for"):
        validate_no_lookalike(name)


@pytest.mark.parametrize(
    "name", ["admin", "иван", "Анна_2", "Ελένη", "zoë", "ışık", "山田taro", "محمد", "w1", "a.b@c"]
)
def test_a_name_in_one_alphabet_is_taken(name: str) -> None:
    validate_no_lookalike(name)


def test_joining_asks_for_both(project: Project, admin: User, make_user: Callable[..., User]) -> None:
    token = services.invitation_create(project=project, role="annotator", note="", created_by=admin).token
    weak = {"username": "аdm", "password1": "4829103847", "password2": "4829103847"}
    page = Client().post(f"/join/{token}/", weak).content.decode()
    assert "mixes Cyrillic and Latin letters" in page
    assert "at least 12 characters" in page
    assert "entirely numeric" in page
    assert not User.objects.filter(username="аdm").exists()


def test_the_command_line_asks_for_it_too(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", "an entirely new one")
    with pytest.raises(CommandError, match="mixes Cyrillic and Latin"):
        call_command("createsuperuser", interactive=False, username="аdm", email="")


def test_a_name_that_is_there_already_still_signs_in(db: None) -> None:
    User.objects.create_user("аdm", password="an entirely new one")
    assert (
        Client().post("/sign-in/", {"username": "аdm", "password": "an entirely new one"}).status_code == 302
    )
