"""The queue: which pair (or lone response) somebody judges next, reserved for them until a time.

A pair wants `wanted` judgements. Its places are counted on its own row: `judged` are taken for good, `reserved` are
held by open assignments. Whoever wants a place changes that row by one conditional UPDATE (`place_move`) and the row
count decides, so the overlap is exact with any number of processes, on SQLite and on PostgreSQL alike.

The next card costs the same in every project. labels.counters tells how many pairs are open for somebody in each
stratum, so nothing is counted here. Each pair has a random place in a ring (`draw`); `_Ring` takes one row at or after
a random point of it through an index, and says with what probability it was chosen.

Locks are taken in one order: the annotator's own assignments of a pair, that pair, responses by key, a pair that is
drawn (one that is locked is passed over), the counters. So no two transactions wait for each other in a circle.
"""

import random
import time
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import IntegrityError, connection, models, transaction
from django.db.models import F, Q
from django.db.models.expressions import RawSQL
from django.utils import timezone

from webapp.accounts.models import User
from webapp.corpus.access import check_not_archived
from webapp.corpus.models import Project
from webapp.corpus.queued import ROLLOUTS_FIRST, point_draw
from webapp.labels.counters import (
    PAIRS,
    RESPONSES,
    Ledger,
    Standing,
    Stratum,
    Subject,
    recount,
    standing,
    stratum,
    subject_of,
)
from webapp.labels.models import Assignment, AssignmentQuerySet, Side

POLICY = "finish-started"
"""At random among the open pairs that have the most judgements and reservations, so that started pairs get done."""

ROLLOUTS_POLICY = "rollouts-first"
"""As above, and of the equally started the pairs of rollouts come first: at random among those."""

_EVENLY = 256
"""Up to so many are drawn from with equal chances."""

_NEIGHBOURS = 16
"""Of more, one of so many neighbours at a random point of the ring: their chances differ a little, and are known."""

_TRIES = 5

_WAITS = 40

_RENEWED_AFTER = timedelta(minutes=1)


def place_move(
    subject: Subject,
    pk: int,
    *,
    done: int = 0,
    reserved: int = 0,
    only_if_free: bool = False,
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


def place_shift(
    ledger: Ledger,
    subject: Subject,
    pk: int,
    *,
    done: int = 0,
    reserved: int = 0,
    only_if_free: bool = False,
    was_own: bool = True,
    is_own: bool = True,
) -> bool:
    """`place_move`, noted in the ledger: the pair may leave its stratum, and become its annotator's own or no more."""
    if not place_move(subject, pk, done=done, reserved=reserved, only_if_free=only_if_free):
        return False
    change = done + reserved
    if change or was_own != is_own:
        counts = subject.rows().filter(pk=pk).values_list(subject.done, "reserved", "wanted", "priority")
        now_done, now_reserved, wanted, priority = counts.get()
        taken = now_done + now_reserved
        before, after = stratum(taken - change, wanted, priority), stratum(taken, wanted, priority)
        ledger.move(subject, pk, before, after, was_own=was_own, is_own=is_own)
    return True


def _open_assignments(subject: Subject, project: Project, annotator: User) -> AssignmentQuerySet:
    rows = Assignment.objects.of(project, annotator).open()
    return rows.filter(**{f"{subject.field}__isnull": False})


def _not_own(subject: Subject, annotator: User) -> RawSQL:
    """The condition that a row can still be given to this annotator: neither answered nor held by them."""
    return RawSQL(
        subject.not_own.replace("q.id", f"{subject.table}.id"),
        [annotator.pk] * len(subject.own),
        output_field=models.BooleanField(),
    )


def busy_count(*, project: Project, annotator: User) -> int:
    """How many this annotator could judge if those who hold the last places let go of them."""
    subject = subject_of(project)
    held = Assignment.objects.filter(project=project, holds_place=True).open()
    rows = subject.of(project).filter(
        pk__in=held.values(f"{subject.field}_id"),
        wanted__gt=F(subject.done),
        wanted__lte=F(subject.done) + F("reserved"),
    )
    return rows.filter(_not_own(subject, annotator)).count()


class _Ring:
    """The open rows of one stratum that an annotator could be given, ordered by `draw`; behind the last, the first."""

    def __init__(self, project: Project, annotator: User, place: Stratum) -> None:
        self._subject = subject = subject_of(project)
        taken = f"(q.{subject.done} + q.reserved)"
        self._open = f"q.wanted > {taken} AND {taken} = %s"
        self._taken = place.taken
        self._rows = (
            f"FROM {subject.table} q WHERE {self._open}"
            f" AND q.project_id = %s AND q.priority = %s AND {subject.not_own}"
        )
        self._of = [place.taken, project.pk, place.priority, *[annotator.pk] * len(subject.own)]

    def size(self) -> int:
        [(size,)] = self._ask(f"SELECT COUNT(*) {self._rows}", self._of)
        return int(size)

    def take(self, size: int) -> tuple[int, float] | None:
        """Draw one of about `size` rows and reserve a place of it: its key, and the probability of the choice.

        None: it is gone, or somebody has it locked.
        """
        rows = f"SELECT q.id {self._rows}"
        if size <= _EVENLY:
            taken = self._reserve(f"{rows} ORDER BY q.draw", [random.randrange(size)])
            return (taken[0], 1 / size) if taken else None
        # A row is chosen if the point falls before it, behind the row that is _NEIGHBOURS before it, and the position
        # is the right one of _NEIGHBOURS: its chance is that stretch of the ring, divided.
        point, position = point_draw(), random.randrange(_NEIGHBOURS)
        behind = _NEIGHBOURS - position - 1
        before = f"(SELECT q.draw {self._rows} AND q.draw < %s ORDER BY q.draw DESC LIMIT 1 OFFSET %s)"
        before_of = [*self._of, point, behind]
        taken = self._reserve(
            f"{rows} AND q.draw >= %s ORDER BY q.draw", [point, position], before, before_of
        )
        # Perhaps the stretch goes over an end of the ring: rare. Unrolled at the point it does not.
        unrolled = "CASE WHEN q.draw < %s THEN q.draw + 1 ELSE q.draw END"
        taken = taken or self._reserve(f"{rows} ORDER BY {unrolled}", [point, position], before, before_of)
        if taken is None:
            return None
        pk, place, last = taken
        if last is None:
            [(last,)] = self._ask(
                f"SELECT q.draw {self._rows} ORDER BY {unrolled} DESC LIMIT 1 OFFSET %s", before_of
            )
        return pk, (place - last) % 1.0 / _NEIGHBOURS

    def _reserve(
        self, rows: str, position: list[Any], also: str = "NULL", of: Sequence[Any] = ()
    ) -> tuple[Any, ...] | None:
        """Reserve a place of the row at this position: its key, its `draw`, and what else is asked.

        Whoever has it locked is not waited for. What others took between the choice and the lock is open no more.
        """
        table = self._subject.table
        lock = "FOR NO KEY UPDATE SKIP LOCKED" if connection.features.has_select_for_update else ""
        found = self._ask(
            f"UPDATE {table} SET reserved = reserved + 1 WHERE id = ("
            f"SELECT q.id FROM {table} q WHERE {self._open} AND q.id = ({rows} LIMIT 1 OFFSET %s) {lock}"
            f") RETURNING id, draw, {also}",
            [self._taken, *self._of, *position, *of],
        )
        return found[0] if found else None

    @staticmethod
    def _ask(sql: str, parameters: list[Any]) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows


def draw(
    numbers: Standing, ledger: Ledger, project: Project, annotator: User, until: Any
) -> Assignment | None:
    """One new reservation in the caller's transaction. `numbers` follow it.

    None: nothing is open (`numbers.free` says so then), or others have locked what is. Nobody is waited for, since the
    caller has locks of its own, as has whoever looked at a row in vain.
    """
    for place in list(numbers.free):
        ring = _Ring(project, annotator, place)
        for attempt in range(_TRIES):
            if numbers.free[place] < 1:
                break
            if found := ring.take(numbers.free[place]):
                card = _card(project, annotator, *found, until, place)
                _note(numbers, ledger, card, place)
                return card
            if numbers.free[place] <= _EVENLY or attempt > 2:
                # Others were faster, or hold it locked: look how many there are now.
                numbers.free[place] = ring.size()
        else:
            return None
    return None


def _card(
    project: Project, annotator: User, pk: int, propensity: float, until: Any, place: Stratum
) -> Assignment:
    """The assignment of a place that is reserved, with its texts. Raises IntegrityError if another tab has one."""
    subject = subject_of(project)
    texts = ("response_a__prompt", "response_b__prompt") if subject is PAIRS else ("prompt",)
    labels = "labels_judgement" if subject is PAIRS else "labels_qualitylabel"
    said = RawSQL(
        f"(SELECT COUNT(*) FROM {labels} s WHERE s.{subject.field}_id = %s AND s.annotator_id = %s)",
        [pk, annotator.pk],
    )
    row: Any = subject.rows().select_related(*texts).annotate(said=said).get(pk=pk)
    card = Assignment(
        project=project,
        annotator=annotator,
        left=random.choice(Side.values) if subject is PAIRS else "",
        reserved_until=until,
        policy=ROLLOUTS_POLICY if place.priority == ROLLOUTS_FIRST else POLICY,
        propensity=propensity,
        **{subject.field: row},
    )
    card.save(force_insert=True)
    card.said = row.said
    return card


def _note(numbers: Standing, ledger: Ledger, card: Assignment, place: Stratum) -> None:
    """The new reservation in the ledger, and in the numbers as this annotator has them."""
    subject = subject_of(card.project)
    row = getattr(card, subject.field)
    after = stratum(place.taken + 1, row.wanted, place.priority)
    ledger.add(subject, held=1)
    ledger.move(subject, row.pk, place, after, was_own=False)
    numbers.free[place] -= 1
    numbers.held += 1


def assignments_for(*, project: Project, annotator: User, count: int = 2) -> list[Assignment]:
    """Up to `count` cards reserved for this annotator, oldest first; fewer when nothing else is open for them.

    Their own open assignments come first and their time is renewed, so a reload, a second tab and the card fetched
    ahead keep theirs. New ones follow the policy, and say with what probability they were chosen. All have their texts.
    Raises ProjectArchived.
    """
    return cards_and_standing(project=project, annotator=annotator, count=count)[0]


def cards_and_standing(
    *, project: Project, annotator: User, count: int, others: Collection[UUID] = ()
) -> tuple[list[Assignment], Standing]:
    """As `assignments_for`, with the annotator's numbers. Cards whose keys are `others` are not counted."""
    check_not_archived(project)
    subject = subject_of(project)
    mine = _open_assignments(subject, project, annotator)
    cards = [card for card in mine.with_texts().order_by("pk") if card.key not in others][:count]
    until = timezone.now() + timedelta(minutes=project.reservation_minutes)
    if any(card.reserved_until < until - _RENEWED_AFTER for card in cards):
        mine.update(reserved_until=until)
    numbers = standing(project=project, annotator=annotator)
    looked = False
    while len(cards) < count:
        new, numbers = _draw_alone(numbers, project, annotator, until, count - len(cards))
        cards += new
        if not new:
            if looked or not _look_again(subject, project, annotator):
                break
            looked, numbers = True, standing(project=project, annotator=annotator)
    for card in cards:
        card.project = project
    return cards, numbers


def _draw_alone(
    numbers: Standing, project: Project, annotator: User, until: Any, count: int
) -> tuple[list[Assignment], Standing]:
    """Up to `count` new reservations in a transaction of their own, and the numbers after it."""
    for attempt in range(_WAITS):
        if not any(size > 0 for size in numbers.free.values()):
            break
        ledger = Ledger(project, annotator.pk)
        cards: list[Assignment] = []
        try:
            with transaction.atomic():
                while len(cards) < count and (card := draw(numbers, ledger, project, annotator, until)):
                    cards.append(card)
                ledger.write()
        except IntegrityError:
            # Another tab of the same person holds an open assignment for one of them.
            numbers = standing(project=project, annotator=annotator)
            continue
        if cards:
            return cards, numbers
        # Others have the last open ones locked, each for some milliseconds.
        time.sleep(0.001 * 2 ** min(attempt, 5))
    return [], numbers


def _look_again(subject: Subject, project: Project, annotator: User) -> bool:
    """Before somebody is told that nothing is open: end reservations whose time is over, and don't believe numbers."""
    ended = reservations_expire(project=project)
    if not ended and subject.wanting(project).filter(_not_own(subject, annotator)).exists():
        recount(project)
        return True
    return bool(ended)


def reservations_expire(*, project: Project | None = None) -> int:
    """End the reservations whose time is over and give their places back. Returns how many this call ended."""
    now = timezone.now()
    late = Assignment.objects.open().filter(reserved_until__lt=now)
    if project is not None:
        late = late.filter(project=project)
    ended = 0
    for assignment in late.select_related("project").order_by("pk"):
        with transaction.atomic():
            # Only while it is still late: its owner may have come back, or another process may have been faster.
            moved = late.filter(pk=assignment.pk, holds_place=assignment.holds_place).update(
                state=Assignment.State.EXPIRED, holds_place=False
            )
            if moved:
                ledger = Ledger(assignment.project, assignment.annotator_id)
                release(ledger, assignment)
                ledger.write()
        ended += moved
    return ended


def release(ledger: Ledger, assignment: Assignment) -> None:
    """What an open card held (`assignment` as it was) goes back, once it is closed without an answer."""
    subject = PAIRS if assignment.pair_id else RESPONSES
    pk = subject.pk_in(assignment)
    # Somebody may have answered it besides, by an import.
    theirs = subject.rows().filter(~Q(_not_own(subject, assignment.annotator)), pk=pk)
    is_own = theirs.exists()
    place_shift(ledger, subject, pk, reserved=-int(assignment.holds_place), is_own=is_own)
    ledger.add(subject, held=-1)
