"""Writes of the project's own pages: making, copying and archiving one, its people, invitations."""

import copy
from datetime import timedelta

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from webapp.accounts.models import User
from webapp.corpus.access import check_not_archived
from webapp.corpus.audit import Action, audit, changes
from webapp.corpus.counters import counters_forget
from webapp.corpus.models import Import, Invitation, Membership, Pair, Project, Response

INVITATION_DAYS = 14


class LastAdmin(ValueError):
    """The last admin of a project can't be removed: nobody could let anybody in again."""


class InvitationGone(ValueError):
    """The invitation was used or withdrawn, is too old, or whoever made it may not invite any more."""


@transaction.atomic
def project_create(*, project: Project, created_by: User) -> Project:
    """Save a new project; who makes it is its first admin."""
    project.methods = project.methods or [project.first_method]
    project.save()
    Membership.objects.create(project=project, user=created_by, role=Membership.Role.ADMIN)
    audit(
        project=project,
        actor=created_by,
        action=Action.PROJECT_CREATED,
        detail={"name": project.name, "slug": project.slug},
    )
    return project


# What a copy of a project has of its own.
_NOT_COPIED = {"id", "name", "slug", "archived_at", "created_at", "split_salt"}


@transaction.atomic
def project_copy(*, project: Project, name: str, slug: str, people: bool, actor: User) -> Project:
    """A new project with the same settings and guidelines, and no data; with `people`, the same people too.

    Whoever copies is an admin of it. Names that came with imported or simulated labels stay behind.
    """
    settings = {
        field.attname: copy.deepcopy(getattr(project, field.attname))
        for field in Project._meta.concrete_fields
        if field.name not in _NOT_COPIED
    }
    new = Project(name=name, slug=slug, **settings)
    new.save()
    audit(
        project=new,
        actor=actor,
        action=Action.PROJECT_CREATED,
        detail={"name": name, "slug": slug, "copy_of": project.slug},
    )
    audit(
        project=project,
        actor=actor,
        action=Action.PROJECT_COPIED,
        detail={"copy": slug, "with_people": people},
    )
    membership_add(project=new, user=actor, role=Membership.Role.ADMIN, actor=actor)
    if people:
        roles = Membership.objects.filter(
            project=project, user__kind=User.Kind.PERSON, user__is_active=True
        ).select_related("user")
        for each in roles.order_by("pk"):
            membership_add(project=new, user=each.user, role=each.role, actor=actor)
    return new


@transaction.atomic
def project_archive(*, project: Project, actor: User | None = None) -> bool:
    """From now on the project is only read and exported. Its imports, trainings and questions to machines
    under way are cancelled. False: it was archived already.
    """
    now = timezone.now()
    archived = Project.objects.filter(pk=project.pk, archived_at__isnull=True).update(archived_at=now) == 1
    if archived:
        project.archived_at = now
        audit(project=project, actor=actor, action=Action.PROJECT_ARCHIVED)
        # The reverse accessors keep corpus from importing training.
        for job in [*project.imports.active(), *project.runs.active(), *project.machine_jobs.active()]:
            job.request_cancel()
    return archived


@transaction.atomic
def project_unarchive(*, project: Project, actor: User | None = None) -> bool:
    """The project goes on where it was; what was cancelled is not started again. False: it was not archived."""
    opened = Project.objects.filter(pk=project.pk, archived_at__isnull=False).update(archived_at=None) == 1
    if opened:
        project.archived_at = None
        audit(project=project, actor=actor, action=Action.PROJECT_UNARCHIVED)
    return opened


@transaction.atomic
def project_save(*, project: Project, actor: User | None = None) -> None:
    """Save settings; what the queue wants of each pair and response follows overlap and what is asked."""
    before = Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    check_not_archived(before)
    project.save()
    if changed := changes(before, project, [field.attname for field in Project._meta.concrete_fields]):
        audit(project=project, actor=actor, action=Action.SETTINGS_CHANGED, detail=changed)
    wanted = project.overlap if project.asks_pairs else 0
    # What an import has yet to open follows when it does.
    closed = Import.objects.filter(project=project).unfinished()
    pairs = Pair.objects.of(project).exclude(origin__in=closed)
    moved = pairs.exclude(wanted=wanted).update(wanted=wanted)
    lone = 0 if project.asks_pairs else project.overlap
    responses = Response.objects.of(project).exclude(origin__in=closed)
    moved += responses.exclude(wanted=lone).update(wanted=lone)
    if moved:
        counters_forget(project.pk)


def people_known_to(admin: User) -> QuerySet[User]:
    """Whom an admin may give a role by name: people of the projects that this admin runs; staff know everybody.

    Others join by an invitation link. So nobody learns by guessing who else has an account here.
    """
    people = User.objects.filter(kind=User.Kind.PERSON, is_active=True)
    if admin.is_staff or admin.is_superuser:
        return people
    runs = Membership.objects.filter(user=admin, role=Membership.Role.ADMIN).values("project_id")
    return people.filter(pk__in=Membership.objects.filter(project_id__in=runs).values("user_id"))


@transaction.atomic
def membership_add(*, project: Project, user: User, role: str, actor: User | None = None) -> bool:
    """Give a role; False if the person has it already."""
    added = Membership.objects.get_or_create(project=project, user=user, role=role)[1]
    if added:
        detail = {"user": user.username, "role": role}
        audit(project=project, actor=actor, action=Action.ROLE_GIVEN, detail=detail)
    return added


@transaction.atomic
def membership_remove(*, project: Project, user: User, role: str, actor: User | None = None) -> bool:
    """Take a role away; the person's labels stay. Raises LastAdmin.

    With the right to invite go the invitations: an admin who is removed cannot come back by an own link.
    """
    # Locking the project's row makes two admins who remove each other at once wait in line.
    Project.objects.select_for_update().get(pk=project.pk)
    if role == Membership.Role.ADMIN:
        others = Membership.objects.filter(project=project, role=role).exclude(user=user)
        if not others.exists():
            raise LastAdmin("This is the project's last admin. Make somebody else admin first.")
    removed = Membership.objects.filter(project=project, user=user, role=role).delete()[0] > 0
    if not removed:
        return False
    audit(
        project=project, actor=actor, action=Action.ROLE_TAKEN, detail={"user": user.username, "role": role}
    )
    if role == Membership.Role.ADMIN and not user.is_superuser:
        for invitation in Invitation.objects.filter(project=project, created_by=user, used_at__isnull=True):
            invitation_withdraw(invitation=invitation, actor=actor)
    return True


@transaction.atomic
def invitation_create(*, project: Project, role: str, note: str, created_by: User) -> Invitation:
    """A link that lets one new person join for INVITATION_DAYS days."""
    invitation = Invitation.objects.create(
        project=project,
        role=role,
        note=note,
        created_by=created_by,
        expires_at=timezone.now() + timedelta(days=INVITATION_DAYS),
    )
    detail = {"invitation": invitation.pk, "role": role, "note": note}
    audit(project=project, actor=created_by, action=Action.INVITATION_MADE, detail=detail)
    return invitation


@transaction.atomic
def invitation_withdraw(*, invitation: Invitation, actor: User | None = None) -> bool:
    """The link no longer works. False: somebody used it before."""
    withdrawn = Invitation.objects.filter(pk=invitation.pk, used_at__isnull=True).delete()[0] == 1
    if withdrawn:
        audit(
            project=invitation.project,
            actor=actor,
            action=Action.INVITATION_WITHDRAWN,
            detail={"invitation": invitation.pk, "role": invitation.role, "note": invitation.note},
        )
    return withdrawn


def invitation_open(token: str) -> Invitation | None:
    """The invitation behind a token while it can be used."""
    return Invitation.objects.usable().select_related("project").filter(token=token).first()


@transaction.atomic
def invitation_accept(*, invitation: Invitation, user: User) -> None:
    """Use the invitation up and give its role. Raises InvitationGone if somebody was quicker.

    The rows of the project and of whoever made the invitation are locked first: a removal that is under way ends
    before we look whether that person may still invite.
    """
    Project.objects.select_for_update(no_key=True).get(pk=invitation.project_id)
    User.objects.select_for_update(no_key=True).get(pk=invitation.created_by_id)
    usable = Invitation.objects.usable().filter(pk=invitation.pk)
    if usable.update(used_at=timezone.now(), used_by=user) != 1:
        raise InvitationGone("This invitation can't be used any more. Ask the admin for a new one.")
    membership_add(project=invitation.project, user=user, role=invitation.role, actor=user)
    detail = {"invitation": invitation.pk, "role": invitation.role, "note": invitation.note}
    audit(project=invitation.project, actor=user, action=Action.INVITATION_USED, detail=detail)
