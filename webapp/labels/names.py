"""The names under which annotators leave and enter a project.

An imported (or simulated) annotator's username is "<project's slug>:<name>", since usernames are unique in the whole
installation; files and snapshots hold the bare name, so that labels which went out and came in again are the same.
"""

from collections import Counter
from typing import NamedTuple

from django.db.models import Q, QuerySet

from webapp.accounts.models import User
from webapp.corpus.models import Project
from webapp.labels.models import Judgement, QualityLabel


class Named(NamedTuple):
    """An annotator as files show them."""

    name: str
    account_type: str


def imported_username(project: Project, name: str) -> str:
    """The username of an imported annotator; a name that has the project's prefix already is one."""
    prefix = f"{project.slug}:"
    return name if name.startswith(prefix) else f"{prefix}{name}"


def machine_username(project: Project, name: str) -> str:
    """The username of a machine annotator: no imported one, which begins with a project's address, can be the same."""
    return f"{_machine_prefix(project)}{name}"[: 150 - len(" (machine)")] + " (machine)"


def _machine_prefix(project: Project) -> str:
    return f"~{project.slug}:"


def labellers(project: Project) -> QuerySet[User]:
    """Everybody who ever labelled in the project."""
    return User.objects.filter(
        Q(pk__in=Judgement.objects.of(project).values("annotator"))
        | Q(pk__in=QualityLabel.objects.of(project).values("annotator"))
    )


def labellers_and_members(project: Project) -> QuerySet[User]:
    """Everybody who ever labelled in the project, or belongs to it."""
    return labellers(project) | User.objects.filter(pk__in=project.memberships.values("user"))


def annotator_names(project: Project) -> dict[int, Named]:
    """By primary key, everybody who ever labelled in the project: people by username, others without the prefix.

    Where two would get the same name, the one that isn't a person keeps the prefix.
    """
    prefix = f"{project.slug}:"
    machine = _machine_prefix(project)
    bare = {
        pk: Named(
            name if account_type == User.Kind.PERSON else name.removeprefix(machine).removeprefix(prefix),
            account_type,
        )
        for pk, name, account_type in labellers(project).values_list("pk", "username", "kind")
    }
    taken = Counter(named.name for named in bare.values())
    return {
        pk: named
        if taken[named.name] == 1 or named.account_type == User.Kind.PERSON
        else Named(prefix + named.name, named.account_type)
        for pk, named in bare.items()
    }
