"""The project's own pages: who sees them, settings, people, invitations."""

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from django.test import Client
from django.utils import timezone

from webapp.accounts.models import User
from webapp.corpus import services
from webapp.corpus.models import Invitation, Membership, Pair, Project, Prompt, Response

ClientOf = Callable[[User], Client]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/p/capitals/settings/", {"admin"}),
        ("/p/capitals/people/", {"admin"}),
        ("/p/capitals/guidelines/", {"admin", "annotator", "researcher"}),
    ],
)
def test_who_sees_a_project_page(
    path: str,
    allowed: set[str],
    admin: User,
    annotator: User,
    researcher: User,
    stranger: User,
    client_of: ClientOf,
) -> None:
    for role, user in {"admin": admin, "annotator": annotator, "researcher": researcher}.items():
        assert client_of(user).get(path).status_code == (200 if role in allowed else 403), role
    assert client_of(stranger).get(path).status_code == 404
    anonymous = Client().get(path)
    assert anonymous.status_code == 302
    assert anonymous["Location"].startswith("/sign-in/")


def test_a_refused_member_is_told_why(annotator: User, client_of: ClientOf) -> None:
    page = client_of(annotator).get("/p/capitals/settings/")
    assert "Only admins of this project may do this." in page.content.decode()


def test_projects_lists_only_ones_own(
    project: Project, annotator: User, stranger: User, client_of: ClientOf
) -> None:
    assert "Capitals" in client_of(annotator).get("/").content.decode()
    page = client_of(stranger).get("/").content.decode()
    assert "Capitals" not in page
    assert "Ask an admin for an invitation link" in page


def test_projects_page_needs_the_same_queries_for_many(
    make_user: Callable[..., User], client_of: ClientOf, django_assert_max_num_queries: Callable[..., object]
) -> None:
    user = make_user("max")
    for index in range(30):
        one = Project.objects.create(slug=f"p{index}", name=f"P {index}")
        Membership.objects.create(project=one, user=user, role="annotator")
    client = client_of(user)
    with django_assert_max_num_queries(4):  # type: ignore[attr-defined]
        assert client.get("/").status_code == 200


def test_only_staff_make_projects(
    make_user: Callable[..., User], stranger: User, client_of: ClientOf
) -> None:
    assert client_of(stranger).get("/new/").status_code == 403
    staff = make_user("sid", is_staff=True)
    answer = client_of(staff).post(
        "/new/", {"name": "Rivers", "slug": "rivers", "asks": "pairs", "overlap": 2}
    )
    assert answer["Location"] == "/p/rivers/imports/"
    assert Membership.objects.get(project__slug="rivers").role == "admin"


@pytest.mark.parametrize(("asks", "method"), [("pairs", "oprm"), ("both", "rgft"), ("levels", "rgft")])
def test_a_new_project_begins_with_the_method_of_its_labels(
    asks: str, method: str, make_user: Callable[..., User], client_of: ClientOf
) -> None:
    client = client_of(make_user("sid", is_staff=True))
    client.post("/new/", {"name": "Rivers", "slug": "rivers", "asks": asks, "overlap": 2})
    project = Project.objects.get(slug="rivers")
    assert (project.methods, project.main_method) == ([method], method)
    page = client.get("/p/rivers/settings/").content.decode()
    assert f'<option value="{method}" selected>' in page
    # A project that was there before and named none keeps what it had.
    assert Project(slug="old", name="Old", asks=asks).main_method == "oprm"


def settings_of(project: Project, **changes: object) -> dict[str, object]:
    names = [
        "name", "description", "guidelines", "asks", "overlap", "reservation_minutes", "bad_to", "normal_to",
        "base_model", "causal_base_model",
        "tuning", "retrain_after_labels", "retrain_every_hours", "min_judgements", "gate_max_drop",
        "pairing", "pairing_limit",
    ]  # fmt: skip
    fields = {name: getattr(project, name) for name in names}
    return {**fields, "methods": project.methods, "main_method": project.main_method, **changes}


def test_settings_carry_the_overlap_to_every_pair(
    project: Project, admin: User, client_of: ClientOf, make_prompt: Callable[..., Prompt]
) -> None:
    make_prompt(project, "p1", ["Paris", "Lyon", "Nice"])
    answer = client_of(admin).post("/p/capitals/settings/", settings_of(project, overlap=5))
    assert answer.status_code == 302, answer.content.decode()
    assert set(Pair.objects.of(project).values_list("wanted", flat=True)) == {5}
    client_of(admin).post("/p/capitals/settings/", settings_of(project, overlap=5, asks="levels"))
    assert set(Pair.objects.of(project).values_list("wanted", flat=True)) == {0}
    assert set(Response.objects.of(project).values_list("wanted", flat=True)) == {5}


def test_the_main_method_comes_first(project: Project, admin: User, client_of: ClientOf) -> None:
    client_of(admin).post(
        "/p/capitals/settings/", settings_of(project, methods=["bt", "oprm"], main_method="rgft")
    )
    project.refresh_from_db()
    assert project.methods == ["rgft", "bt", "oprm"]
    assert project.main_method == "rgft"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("normal_to", 3, "must end above"),
        ("overlap", 0, "greater than or equal to 1"),
        ("main_method", "dpo", "dpo is not one of the available choices"),
        ("hardening", 2, "less than or equal to 1"),
        ("patience", 2.5, "Enter a whole number."),
        ("votes", "some", "some is not one of the available choices"),
        ("reliability", "maybe", "maybe is not one of the available choices"),
    ],
)
def test_settings_refuse_nonsense(
    field: str, value: object, message: str, project: Project, admin: User, client_of: ClientOf
) -> None:
    answer = client_of(admin).post("/p/capitals/settings/", settings_of(project, **{field: value}))
    assert answer.status_code == 422
    assert message in answer.content.decode()


def test_training_options_are_kept_and_shown(project: Project, admin: User, client_of: ClientOf) -> None:
    chosen = {"reliability": "off", "votes": "majority", "hardening": "0.2", "patience": "0"}
    client_of(admin).post("/p/capitals/settings/", settings_of(project, **chosen))
    project.refresh_from_db()
    kept = {"reliability": False, "votes": "majority", "hardening": 0.2, "patience": 0}
    assert project.training_options == kept
    form = client_of(admin).get("/p/capitals/settings/").context["form"]
    assert {name: str(form[name].value()) for name in chosen} == chosen
    client_of(admin).post("/p/capitals/settings/", settings_of(project, **dict.fromkeys(chosen, "")))
    project.refresh_from_db()
    assert project.training_options == {}


def test_an_option_of_another_method_is_refused(project: Project, admin: User, client_of: ClientOf) -> None:
    project.methods, project.training_options = ["rgft"], {"region": "flood"}
    project.save()
    for methods, status in ((["rgft"], 302), (["rgft", "bt"], 422)):
        answer = client_of(admin).post("/p/capitals/settings/", settings_of(project, methods=methods))
        assert answer.status_code == status
    assert "region is an option of Region Flooding Tuning (RgFT) alone" in answer.content.decode()
    project.refresh_from_db()
    assert (project.methods, project.training_options) == (["rgft"], {"region": "flood"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warp": 1}, "Unknown option 'warp'."),
        ({"hardening": 1.5}, "hardening is 1.5; it must lie between 0 and 1."),
        ({"reliability": "yes"}, "reliability must be true or false, not 'yes'."),
        ({"haf_head": "ordinal"}, "haf_head is an option of Hybrid (HaF-RM) alone."),
    ],
)
def test_a_project_refuses_what_a_run_would(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        Project(training_options=options).clean()


def test_an_invitation_works_once(project: Project, admin: User, client_of: ClientOf) -> None:
    client_of(admin).post(
        "/p/capitals/people/", {"invitation-role": "annotator", "invitation-note": "Bo", "invite": ""}
    )
    invitation = Invitation.objects.get()
    account = {"username": "bo", "password1": "a long enough one", "password2": "a long enough one"}
    newcomer = Client()
    assert "invited as" in newcomer.get(f"/join/{invitation.token}/").content.decode()
    assert newcomer.post(f"/join/{invitation.token}/", account)["Location"] == "/p/capitals/guidelines/"
    assert Membership.objects.get(user__username="bo").role == "annotator"
    second = Client().post(f"/join/{invitation.token}/", {**account, "username": "bob"})
    assert second.status_code == 410
    assert not User.objects.filter(username="bob").exists()


def test_an_old_invitation_is_refused(project: Project, admin: User) -> None:
    invitation = services.invitation_create(project=project, role="annotator", note="", created_by=admin)
    Invitation.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert Client().get(f"/join/{invitation.token}/").status_code == 410


def test_somebody_with_an_account_joins_with_it(
    project: Project, admin: User, stranger: User, client_of: ClientOf
) -> None:
    invitation = services.invitation_create(project=project, role="researcher", note="", created_by=admin)
    client_of(stranger).post(f"/join/{invitation.token}/")
    assert Membership.objects.get(user=stranger).role == "researcher"


def test_roles_are_given_and_taken_but_never_the_last_admins(
    project: Project, admin: User, stranger: User, client_of: ClientOf
) -> None:
    client = client_of(admin)
    Membership.objects.create(project=project, user=stranger, role="researcher")
    client.post("/p/capitals/people/", {"role-username": "stan", "role-role": "annotator", "give-role": ""})
    assert Membership.objects.filter(user=stranger, role="annotator").exists()
    page = client.post(
        "/p/capitals/people/", {"role-username": "nobody", "role-role": "annotator", "give-role": ""}
    )
    assert "is nobody whom you can give a role by name" in page.content.decode()
    client.post("/p/capitals/people/remove/", {"user": stranger.pk, "role": "annotator"})
    assert not Membership.objects.filter(user=stranger, role="annotator").exists()
    page = client.post("/p/capitals/people/remove/", {"user": admin.pk, "role": "admin"}, follow=True)
    assert "last admin" in page.content.decode()
    assert Membership.objects.filter(user=admin, role="admin").exists()


def test_guidelines_are_sanitised(project: Project, annotator: User, client_of: ClientOf) -> None:
    project.guidelines = "# Hello\n<script>alert(1)</script> [x](javascript:alert(1)) **bold**"
    project.save()
    page = client_of(annotator).get("/p/capitals/guidelines/").content.decode()
    assert "<script>alert" not in page
    assert 'href="javascript' not in page
    assert "<strong>bold</strong>" in page
