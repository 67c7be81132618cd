"""The queue: which pair (or lone response) somebody judges next, reserved for them until a time.

A pair wants `wanted` judgements. Its places are counted on its own row: `judged` are taken for good, `reserved` are
held by open assignments. Whoever wants a place changes that row by one conditional UPDATE (`place_move`) and the row
count decides, so the overlap is exact with any number of processes, on SQLite and on PostgreSQL alike. Everything
that changes an assignment's state first locks the pair's row (`place_lock`), so the order of locks is always
pair, then assignment, and nothing is released twice.

Lone responses (projects that ask for levels only) are handed out in the same way; `Subject` names what differs.
"""

import random
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, models, transaction
from django.db.models import F, Q
from django.utils import timezone

from webapp.accounts.models import User
from webapp.corpus.access import check_not_archived
from webapp.corpus.models import Pair, Project, Response
from webapp.labels.models import Assignment, Judgement, QualityLabel, Side

POLICY = "finish-started"
"""Uniform among the open pairs that have the most judgements and reservations, so that started pairs get done."""

_TRIES = 200


@dataclass(frozen=True)
class Subject:
    """What is handed out: the model, the assignment's foreign key to it, and the counter of finished places."""

    model: type[Pair] | type[Response]
    field: str
    done: str

    def rows(self) -> models.QuerySet[Any]:
        return self.model.objects.all()

    def of(self, project: Project) -> models.QuerySet[Any]:
        return self.model.objects.of(project)

    def pk_in(self, assignment: Assignment) -> int:
        pk: int = getattr(assignment, f"{self.field}_id")
        return pk


PAIRS = Subject(Pair, "pair", "judged")
RESPONSES = Subject(Response, "response", "labelled")


def subject_of(project: Project) -> Subject:
    """What this project hands out."""
    return PAIRS if project.asks_pairs else RESPONSES


def place_lock(subject: Subject, pk: int) -> None:
    """Lock the row that counts the places until the transaction ends (SQLite: the transaction already has the lock)."""
    list(subject.rows().filter(pk=pk).select_for_update(no_key=True).values_list("pk", flat=True))


def place_move(
    subject: Subject, pk: int, *, done: int = 0, reserved: int = 0, only_if_free: bool = False
) -> bool:
    """Change the counters of one pair or response in one UPDATE.

    With `only_if_free` the change happens only if it leaves done + reserved within `wanted`. False: it did not.
    """
    rows = subject.rows().filter(pk=pk)
    if only_if_free:
        rows = rows.alias(after=F(subject.done) + F("reserved") + (done + reserved)).filter(
            after__lte=F("wanted")
        )
    changes: dict[str, Any] = {}
    if done:
        changes[subject.done] = F(subject.done) + done
    if reserved:
        changes["reserved"] = F("reserved") + reserved
    return not changes or rows.update(**changes) == 1


def _answered(subject: Subject, annotator: User) -> list[models.QuerySet[Any]]:
    """Ids of what this annotator has answered; skips count, answers taken back don't."""
    if subject is PAIRS:
        return [Judgement.objects.current().by(annotator).values("pair_id")]
    # A skipped lone response has no level; its finished assignment remembers it.
    finished = Assignment.objects.filter(
        annotator=annotator, state=Assignment.State.DONE, response__isnull=False
    )
    return [
        QualityLabel.objects.current().by(annotator).values("response_id"),
        finished.values("response_id"),
    ]


def _open_assignments(subject: Subject, project: Project, annotator: User) -> models.QuerySet[Assignment]:
    return Assignment.objects.of(project, annotator).open().filter(**{f"{subject.field}__isnull": False})


def _wanting(subject: Subject, project: Project) -> models.QuerySet[Any]:
    """What wants more judgements, annotated with `taken` (the index of corpus.models._open_index serves this)."""
    taken = F(subject.done) + F("reserved")
    return subject.of(project).filter(wanted__gt=taken).annotate(taken=taken)


def _mine(subject: Subject, project: Project, annotator: User) -> Q:
    """What can't be given to this annotator (again): they have answered it or hold it."""
    held = _open_assignments(subject, project, annotator).values(f"{subject.field}_id")
    condition = Q(pk__in=held)
    for ids in _answered(subject, annotator):
        condition |= Q(pk__in=ids)
    return condition


def _size(rows: models.QuerySet[Any], mine: Q) -> int:
    """How many of `rows` are not mine. Two counts: looking up one's own few is quicker than testing every row."""
    return rows.count() - rows.filter(mine).count()


def open_count(*, project: Project, annotator: User) -> int:
    """How many cards are open for this annotator now: their own reservations and what they could still be given."""
    subject = subject_of(project)
    free = _size(_wanting(subject, project), _mine(subject, project, annotator))
    return free + _open_assignments(subject, project, annotator).count()


def busy_count(*, project: Project, annotator: User) -> int:
    """How many this annotator could judge if those who hold the last places let go of them."""
    subject = subject_of(project)
    rows = subject.of(project).filter(wanted__gt=F(subject.done), wanted__lte=F(subject.done) + F("reserved"))
    return _size(rows, _mine(subject, project, annotator))


class _Taken(Exception):
    """Somebody else has taken the chosen pair: the transaction rolls back and another is chosen."""


def _reserve(subject: Subject, project: Project, annotator: User, until: Any) -> Assignment | None:
    """One new reservation, or None when nothing is open. Reads happen before the write lock is taken."""
    for _ in range(_TRIES):
        wanting, mine = _wanting(subject, project), _mine(subject, project, annotator)
        most = wanting.exclude(mine).order_by("-taken").values_list("taken", flat=True).first()
        if most is None:
            return None
        stratum = wanting.filter(taken=most)
        if (size := _size(stratum, mine)) < 1:
            continue  # others took the last ones between the two reads
        chosen = (
            stratum.exclude(mine)
            .order_by("pk")
            .values_list("pk", flat=True)[random.randrange(size) :]
            .first()
        )
        if chosen is None:
            continue
        try:
            with transaction.atomic():
                if not place_move(subject, chosen, reserved=1, only_if_free=True):
                    raise _Taken
                # Another tab of the same person may have taken and answered it since the read; the row lock that
                # the UPDATE holds makes this answer final.
                if any(
                    ids.filter(**{subject.field: chosen}).exists() for ids in _answered(subject, annotator)
                ):
                    raise _Taken
                return Assignment.objects.create(
                    project=project,
                    annotator=annotator,
                    **{f"{subject.field}_id": chosen},
                    left=random.choice(Side.values) if subject is PAIRS else "",
                    reserved_until=until,
                    policy=POLICY,
                    propensity=1 / size,
                )
        except (_Taken, IntegrityError):
            # IntegrityError: another tab of the same person holds an open assignment for it.
            continue
    return None


def assignments_for(*, project: Project, annotator: User, count: int = 2) -> list[Assignment]:
    """Up to `count` cards reserved for this annotator, oldest first; fewer when nothing else is open for them.

    Their own open assignments come first and their time is renewed, so a reload, a second tab and the card fetched
    ahead keep theirs. New ones follow the policy, and say with what probability they were chosen.
    Raises ProjectArchived.
    """
    check_not_archived(project)
    subject = subject_of(project)
    until = timezone.now() + timedelta(minutes=project.reservation_minutes)
    mine = _open_assignments(subject, project, annotator)
    cards = list(mine.order_by("pk")[:count]) if mine.update(reserved_until=until) else []
    swept = False
    while len(cards) < count:
        card = _reserve(subject, project, annotator, until)
        if card is not None:
            cards.append(card)
        elif not swept and reservations_expire(project=project):
            # Nothing was free but for places whose time is over: don't wait for beat to end them.
            swept = True
        else:
            break
    return cards


def reservations_expire(*, project: Project | None = None) -> int:
    """End the reservations whose time is over and give their places back. Returns how many this call ended."""
    now = timezone.now()
    late = Assignment.objects.open().filter(reserved_until__lt=now)
    if project is not None:
        late = late.filter(project=project)
    ended = 0
    for assignment in late.order_by("pk").only("pair_id", "response_id", "holds_place"):
        subject = PAIRS if assignment.pair_id else RESPONSES
        pk = subject.pk_in(assignment)
        with transaction.atomic():
            place_lock(subject, pk)
            # Only while it is still late: its owner may have come back, or another process may have been faster.
            moved = late.filter(pk=assignment.pk, holds_place=assignment.holds_place).update(
                state=Assignment.State.EXPIRED, holds_place=False
            )
            if moved and assignment.holds_place:
                place_move(subject, pk, reserved=-1)
        ended += moved
    return ended
