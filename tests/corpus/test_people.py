"""Who may let people in, and that nobody learns by guessing who else has an account."""

from collections.abc import Callable
from threading import Barrier, Thread

import pytest
from django.db import connection
from django.test import Client

from webapp.accounts.models import User
from webapp.corpus import services
from webapp.corpus.models import Invitation, Membership, Project

ClientOf = Callable[[User], Client]
MakeUser = Callable[..., User]


@pytest.fixture
def second(project: Project, make_user: MakeUser) -> User:
    return make_user("bea", project, "admin")


def invite(project: Project, user: User, role: str = "admin") -> Invitation:
    return services.invitation_create(project=project, role=role, note="", created_by=user)


def test_a_removed_admin_does_not_come_back_by_an_own_link(
    project: Project, admin: User, second: User, client_of: ClientOf
) -> None:
    own, others = invite(project, second), invite(project, admin, "annotator")
    page = client_of(admin).post(
        "/p/capitals/people/remove/", {"user": second.pk, "role": "admin"}, follow=True
    )
    assert own.token not in page.content.decode()
    assert client_of(second).post(f"/join/{own.token}/").status_code == 410
    assert not Membership.objects.filter(user=second).exists()
    assert list(Invitation.objects.all()) == [others]


@pytest.mark.parametrize("lost", ["role", "account"])
def test_an_invitation_ends_with_the_right_to_invite_however_that_ended(
    lost: str, project: Project, admin: User, second: User, stranger: User, client_of: ClientOf
) -> None:
    own = invite(project, second)
    if lost == "role":
        Membership.objects.filter(user=second).delete()
    else:
        User.objects.filter(pk=second.pk).update(is_active=False)
    assert Client().get(f"/join/{own.token}/").status_code == 410
    with pytest.raises(services.InvitationGone):
        services.invitation_accept(invitation=own, user=stranger)
    assert own.token not in client_of(admin).get("/p/capitals/people/").content.decode()


def test_a_superuser_and_another_admins_role_keep_theirs(
    project: Project, admin: User, stranger: User, make_user: MakeUser
) -> None:
    root = make_user("root", project, "admin", is_superuser=True)
    own = invite(project, root, "annotator")
    services.membership_remove(project=project, user=root, role="admin", actor=admin)
    services.invitation_accept(invitation=own, user=stranger)
    assert Membership.objects.filter(user=stranger, role="annotator").exists()


@pytest.mark.django_db(transaction=True)
def test_removal_and_acceptance_at_once(project: Project, admin: User, make_user: MakeUser) -> None:
    """Whichever comes first: nobody joins after the removal has been answered."""
    for index in range(8):
        second, guest = make_user(f"b{index}", project, "admin"), make_user(f"g{index}")
        own, start, order = invite(project, second), Barrier(2), []

        def remove(second: User = second, start: Barrier = start, order: list[str] = order) -> None:
            start.wait()
            services.membership_remove(project=project, user=second, role="admin", actor=admin)
            order.append("removed")
            connection.close()

        def accept(
            guest: User = guest, own: Invitation = own, start: Barrier = start, order: list[str] = order
        ) -> None:
            start.wait()
            try:
                services.invitation_accept(invitation=own, user=guest)
                order.append("accepted")
            except services.InvitationGone:
                order.append("gone")
            connection.close()

        threads = [Thread(target=remove), Thread(target=accept)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert "removed" in order
        joined = Membership.objects.filter(user=guest).exists()
        assert joined == ("accepted" in order)
        assert len(order) == 2
        assert Invitation.objects.filter(pk=own.pk, used_at=None).count() == 0


def test_people_of_other_projects_are_not_told(
    project: Project, admin: User, make_user: MakeUser, client_of: ClientOf
) -> None:
    other = Project.objects.create(slug="other", name="Other")
    hidden = make_user("secretname", other, "annotator", first_name="Anna", last_name="Secretname")
    theirs = invite(other, hidden)
    client = client_of(admin)
    for key in (hidden.pk, 10**6, "²", "9" * 5000, ""):
        assert (
            client.post("/p/capitals/people/remove/", {"user": key, "role": "annotator"}).status_code == 404
        )
    assert client.post(f"/p/capitals/people/invitations/{theirs.pk}/withdraw/").status_code == 404
    answers = []
    for name in ("secretname", "nobodyatall"):
        page = client.post(
            "/p/capitals/people/", {"role-username": name, "role-role": "annotator", "give-role": ""}
        )
        text = page.content.decode().replace(name, "NAME")
        answers.append([line for line in text.splitlines() if "csrf" not in line.lower()])
    assert answers[0] == answers[1]
    assert "make an invitation link" in "".join(answers[0])
    assert not Membership.objects.filter(user=hidden, project=project).exists()


def test_whom_one_may_give_a_role_by_name(
    project: Project, admin: User, annotator: User, make_user: MakeUser, client_of: ClientOf
) -> None:
    """People of the projects one is admin of; where one only judges one doesn't see the others. Staff know all."""
    mine, judged = (Project.objects.create(slug=slug, name=slug) for slug in ("mine", "judged"))
    Membership.objects.create(project=mine, user=admin, role="admin")
    Membership.objects.create(project=judged, user=admin, role="annotator")
    mate, unseen = make_user("mate", mine, "annotator"), make_user("unseen", judged, "annotator")
    assert set(services.people_known_to(admin)) == {admin, annotator, mate}
    staff = make_user("sue", is_staff=True)
    assert unseen in services.people_known_to(staff)


def test_what_really_happened_is_said(
    project: Project, admin: User, annotator: User, stranger: User, client_of: ClientOf
) -> None:
    client = client_of(admin)

    def said(path: str, **fields: object) -> str:
        return client.post(f"/p/capitals/people/{path}/", fields, follow=True).content.decode()

    assert "anna was not researcher" in said("remove", user=annotator.pk, role="researcher")
    assert "anna is no longer annotator" in said("remove", user=annotator.pk, role="annotator")
    assert client.post("/p/capitals/people/remove/", {"user": admin.pk, "role": "king"}).status_code == 404
    used = invite(project, admin, "annotator")
    services.invitation_accept(invitation=used, user=stranger)
    assert "Somebody joined by this link before" in said(f"invitations/{used.pk}/withdraw")
    unused = invite(project, admin, "annotator")
    assert "no longer works" in said(f"invitations/{unused.pk}/withdraw")
