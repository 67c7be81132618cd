"""Writes of the project's own pages: making one, its people, invitations."""

from datetime import timedelta

from django.db import transaction
from django.utils import timezone

from webapp.accounts.models import User
from webapp.corpus.models import Invitation, Membership, Pair, Project, Response

INVITATION_DAYS = 14


class LastAdmin(ValueError):
    """The last admin of a project can't be removed: nobody could let anybody in again."""


class InvitationGone(ValueError):
    """The invitation was used, withdrawn or is too old."""


@transaction.atomic
def project_create(*, project: Project, created_by: User) -> Project:
    """Save a new project; who makes it is its first admin."""
    project.save()
    Membership.objects.create(project=project, user=created_by, role=Membership.Role.ADMIN)
    return project


@transaction.atomic
def project_save(*, project: Project) -> None:
    """Save settings; what the queue wants of each pair and response follows overlap and what is asked."""
    project.save()
    wanted = project.overlap if project.asks_pairs else 0
    Pair.objects.of(project).exclude(wanted=wanted).update(wanted=wanted)
    lone = 0 if project.asks_pairs else project.overlap
    Response.objects.of(project).exclude(wanted=lone).update(wanted=lone)


def membership_add(*, project: Project, user: User, role: str) -> bool:
    """Give a role; False if the person has it already."""
    return Membership.objects.get_or_create(project=project, user=user, role=role)[1]


@transaction.atomic
def membership_remove(*, project: Project, user: User, role: str) -> bool:
    """Take a role away; the person's labels stay. Raises LastAdmin."""
    # Locking the project's row makes two admins who remove each other at once wait in line.
    Project.objects.select_for_update().get(pk=project.pk)
    if role == Membership.Role.ADMIN:
        others = Membership.objects.filter(project=project, role=role).exclude(user=user)
        if not others.exists():
            raise LastAdmin("This is the project's last admin. Make somebody else admin first.")
    return Membership.objects.filter(project=project, user=user, role=role).delete()[0] > 0


def invitation_create(*, project: Project, role: str, note: str, created_by: User) -> Invitation:
    """A link that lets one new person join for INVITATION_DAYS days."""
    return Invitation.objects.create(
        project=project,
        role=role,
        note=note,
        created_by=created_by,
        expires_at=timezone.now() + timedelta(days=INVITATION_DAYS),
    )


def invitation_open(token: str) -> Invitation | None:
    """The invitation behind a token while it can be used."""
    return (
        Invitation.objects.select_related("project")
        .filter(token=token, used_at__isnull=True, expires_at__gt=timezone.now())
        .first()
    )


@transaction.atomic
def invitation_accept(*, invitation: Invitation, user: User) -> None:
    """Use the invitation up and give its role. Raises InvitationGone if somebody was quicker."""
    now = timezone.now()
    used = Invitation.objects.filter(pk=invitation.pk, used_at__isnull=True, expires_at__gt=now).update(
        used_at=now, used_by=user
    )
    if used != 1:
        raise InvitationGone("This invitation was used or is too old. Ask the admin for a new one.")
    membership_add(project=invitation.project, user=user, role=invitation.role)
