"""The names under which annotators leave and enter a project.

An imported (or simulated) annotator's username is "<project's slug>:<name>", since usernames are unique in the whole
installation; files and snapshots hold the bare name, so that labels which went out and came in again are the same.
"""

from collections import Counter
from typing import NamedTuple

from django.db.models import Q, QuerySet

from webapp.accounts.models import User
from webapp.corpus.models import Membership, Project
from webapp.labels.models import Judgement, QualityLabel


class Named(NamedTuple):
    """An annotator as files show them."""

    name: str
    kind: str


def imported_username(project: Project, name: str) -> str:
    """The username of an imported annotator; a name that has the project's prefix already is one."""
    prefix = f"{project.slug}:"
    return name if name.startswith(prefix) else f"{prefix}{name}"


def labellers(project: Project) -> QuerySet[User]:
    """Everybody who ever labelled in the project or may do so, by primary key."""
    return User.objects.filter(
        Q(pk__in=Judgement.objects.filter(pair__project=project).values("annotator"))
        | Q(pk__in=QualityLabel.objects.filter(response__project=project).values("annotator"))
        | Q(pk__in=Membership.objects.filter(project=project).values("user"))
    ).values("pk")


def annotator_names(project: Project) -> dict[int, Named]:
    """By primary key, everybody who ever labelled in the project: people by username, others without the prefix.

    Where two would get the same name, the one that isn't a person keeps the prefix.
    """
    labellers = User.objects.filter(
        Q(pk__in=Judgement.objects.filter(pair__project=project).values("annotator"))
        | Q(pk__in=QualityLabel.objects.filter(response__project=project).values("annotator"))
    ).values_list("pk", "username", "kind")
    prefix = f"{project.slug}:"
    bare = {
        pk: Named(username if kind == User.Kind.PERSON else username.removeprefix(prefix), kind)
        for pk, username, kind in labellers
    }
    taken = Counter(named.name for named in bare.values())
    return {
        pk: named
        if taken[named.name] == 1 or named.kind == User.Kind.PERSON
        else Named(prefix + named.name, named.kind)
        for pk, named in bare.items()
    }
