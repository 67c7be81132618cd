"""The accounts of the installation, as its superusers see and change them, by page and by command."""

import re
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from tests.accounts.test_sessions import is_signed_in, signed_in
from tests.accounts.test_throttling import fail, sign_in
from webapp.accounts import services, throttling, views_operator
from webapp.accounts.models import User
from webapp.corpus.models import Membership, Project

ClientOf = Callable[[User], Client]
MakeUser = Callable[..., User]
NEW = {"new_password1": "an entirely new one", "new_password2": "an entirely new one"}


@pytest.fixture
def root(make_user: MakeUser) -> User:
    return make_user("root", is_superuser=True, is_staff=True)


@pytest.fixture
def uma(make_user: MakeUser, project: Project) -> User:
    return make_user(
        "uma",
        project,
        "annotator",
        "researcher",
        first_name="Uma",
        last_name="Thorn",
        email="uma@example.org",
    )


def command(*words: str) -> str:
    out = StringIO()
    call_command("accounts", *words, stdout=out)
    return out.getvalue()


def test_only_superusers_get_in(
    uma: User,
    admin: User,
    researcher: User,
    stranger: User,
    root: User,
    make_user: MakeUser,
    client_of: ClientOf,
) -> None:
    staff = make_user("staff", is_staff=True)
    actions = [
        f"/accounts/{uma.pk}/{action}/"
        for action in ("deactivate", "reactivate", "reset-link", "second-factor")
    ]
    for user in (uma, admin, researcher, stranger, staff):
        client = client_of(user)
        assert [client.get(path).status_code for path in ("/accounts/", f"/accounts/{uma.pk}/")] == [403, 403]
        assert {client.post(path).status_code for path in actions} == {403}
        assert 'href="/accounts/"' not in client.get("/account/").content.decode()
    assert Client().get("/accounts/")["Location"].startswith("/sign-in/")
    assert 'href="/accounts/"' in client_of(root).get("/account/").content.decode()
    uma.refresh_from_db()
    assert uma.is_active


def test_the_list_is_searched_and_paged(
    uma: User,
    root: User,
    make_user: MakeUser,
    client_of: ClientOf,
    monkeypatch: pytest.MonkeyPatch,
    django_assert_num_queries: Any,
) -> None:
    make_user("bot", kind="simulated")
    monkeypatch.setattr(views_operator, "PER_PAGE", 2)
    client = client_of(root)
    page = client.get("/accounts/").content.decode()
    assert "Capitals" in client.get("/accounts/?q=uma").content.decode()
    assert "bot" not in page
    for words in ("THORN uma", "uma@example.org"):
        found = client.get("/accounts/", {"q": words}).content.decode()
        assert "1 account with" in found
        assert "Uma Thorn" in found
    assert "No account has" in client.get("/accounts/?q=zzz%00").content.decode()
    with django_assert_num_queries(6):
        client.get("/accounts/")
    for number in range(5):
        make_user(f"more{number}")
    monkeypatch.setattr(views_operator, "PER_PAGE", 50)
    with django_assert_num_queries(6):
        assert "7 accounts" in client.get("/accounts/?page=9").content.decode()


def test_deactivating_signs_out_and_keeps_out(uma: User, root: User, client_of: ClientOf) -> None:
    person = signed_in()
    client = client_of(root)
    asked = client.get(f"/accounts/{uma.pk}/").content.decode()
    assert "Yes, deactivate uma" in asked
    assert "Capitals: annotator, researcher" in asked
    said = client.post(f"/accounts/{uma.pk}/deactivate/", follow=True).content.decode()
    assert "can&#x27;t sign in any more" in said
    assert not is_signed_in(person)
    assert not is_signed_in(signed_in())
    assert Membership.objects.filter(user=uma).count() == 2
    client.post(f"/accounts/{uma.pk}/reactivate/")
    assert is_signed_in(signed_in())


def test_the_last_superuser_stays(root: User, make_user: MakeUser, client_of: ClientOf) -> None:
    said = client_of(root).post(f"/accounts/{root.pk}/deactivate/", follow=True).content.decode()
    assert "last active superuser" in said
    with pytest.raises(CommandError, match="last active superuser"):
        command("deactivate", "root")
    second = make_user("second", is_superuser=True)
    said = client_of(root).post(f"/accounts/{root.pk}/deactivate/", follow=True).content.decode()
    assert "deactivate yourself" in said
    services.user_deactivate(user=root, by=second)
    with pytest.raises(services.Refused):
        services.user_deactivate(user=second)
    second.refresh_from_db()
    assert second.is_active


def test_a_reset_link_is_shown_once_and_works_once(uma: User, root: User, client_of: ClientOf) -> None:
    client, person = client_of(root), signed_in()
    fail(throttling.PAIR_LIMIT, "uma")
    page = client.post(f"/accounts/{uma.pk}/reset-link/")
    link = re.search(r'value="(http://testserver/reset/[^"]+)"', page.content.decode())[1]  # type: ignore[index]
    assert "/reset/" not in client.get(f"/accounts/{uma.pk}/").content.decode()
    assert page["Cache-Control"] == "no-store, private"

    visitor = Client()
    form = visitor.get(link)["Location"]
    assert "Set a new password" in visitor.get(form).content.decode()
    assert (
        visitor.post(form, {"new_password1": "4829103847", "new_password2": "4829103847"}).status_code == 200
    )
    assert visitor.post(form, NEW, follow=True).redirect_chain[-1][0] == "/sign-in/"
    assert not is_signed_in(person)
    # At once, though others had used up the tries.
    assert sign_in("uma", NEW["new_password1"]).status_code == 302
    assert "can't be used" in Client().get(link).content.decode()


def test_a_reset_link_runs_out(uma: User, monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    link = services.reset_path(user=uma)
    settings.PASSWORD_RESET_TIMEOUT = -1
    assert "can't be used" in Client().get(link).content.decode()


def test_no_link_for_who_cannot_sign_in(
    uma: User, root: User, make_user: MakeUser, client_of: ClientOf
) -> None:
    services.user_deactivate(user=uma)
    said = client_of(root).post(f"/accounts/{uma.pk}/reset-link/", follow=True).content.decode()
    assert "Reactivate them first" in said
    imported = make_user("w1", kind="imported", is_active=False)
    with pytest.raises(CommandError, match="nobody who signs in"):
        command("reactivate", "w1")
    assert client_of(root).post(f"/accounts/{imported.pk}/reactivate/").status_code == 404


@pytest.mark.parametrize("uid", ["MQ", "%00", "9" * 5000, "LTE", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5"])
@pytest.mark.parametrize("token", ["x-y", "set-password", "%00"])
def test_a_made_up_link_is_no_error(uma: User, uid: str, token: str) -> None:
    answer = Client().get(f"/reset/{uid}/{token}/")
    assert answer.status_code == 200
    assert "can't be used" in answer.content.decode()


@pytest.mark.parametrize("number", ["0", "9" * 30, "9" * 5000])
def test_a_made_up_number_is_not_found(root: User, client_of: ClientOf, number: str) -> None:
    client = client_of(root)
    assert client.get(f"/accounts/{number}/").status_code == 404
    for action in ("deactivate", "reactivate", "reset-link", "second-factor"):
        assert client.post(f"/accounts/{number}/{action}/").status_code == 404
    assert client.post(f"/account/sessions/{number}/end/").status_code in (302, 404)
    assert client.get(f"/accounts/?page={number}&q={number}").status_code == 200


def test_the_same_by_command(uma: User, root: User, settings: Any) -> None:
    settings.CSRF_TRUSTED_ORIGINS = ["https://caliper.example.org"]
    lines = command("list").splitlines()
    assert lines[1] == "uma\tactive\tperson\tnever\tcapitals"
    assert command("list", "thorn").split("\t")[0] == "uma"
    assert "can't sign in any more" in command("deactivate", "uma")
    assert "was not active" in command("deactivate", "uma")
    assert "can sign in again" in command("reactivate", "uma")
    link = command("reset-link", "uma").strip()
    assert link.startswith("https://caliper.example.org/reset/")
    assert Client().get(link.removeprefix("https://caliper.example.org")).status_code == 302
    assert command("reset-link", "uma", "--origin", "http://127.0.0.1:8001/").startswith(
        "http://127.0.0.1:8001/reset/"
    )
    assert "had no second factor" in command("remove-second-factor", "uma")
    with pytest.raises(CommandError, match="no account is named eve"):
        command("deactivate", "eve")
