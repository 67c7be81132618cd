"""Storing what an annotator says: once per intent, append-only, with the places of the queue in the same transaction.

A card is an Assignment; its `key` and its `revision` (how many rows its annotator already has of what it shows) name
one intent to save. The same intent sent again (double click, retry, back button) changes nothing and gets the same
receipt. Another answer on the same card is a new row that supersedes; an undo is a row that takes back. Old rows change
only `is_current`.

An answer's `gain` is what it adds to the count of answers of its pair or response:

    before / now      answer    skip, or taken back
    nothing, skip      1          0
    answer             0         -1

Two sorts of answers are stored only after one more look (`Asked`): one whose verdict and levels contradict each other,
and one that would replace an answer which was not on the card when it was shown.
"""

import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from webapp.accounts.models import User
from webapp.corpus.access import check_not_archived
from webapp.corpus.models import Pair, Project, Response
from webapp.events.models import Kind
from webapp.events.recording import event_record, events_record
from webapp.labels.contradictions import contradiction
from webapp.labels.counters import PAIRS, RESPONSES, Ledger, Standing, Subject, standing_of
from webapp.labels.models import Assignment, Judgement, Level, QualityLabel, Side, Source, Verdict
from webapp.labels.queue import draw, place_shift

COMMENT_MAX = 4000
REASONS_MAX = 20
UNDO_WITHIN = timedelta(hours=24)
_NEWEST = 5


class Refused(ValueError):
    """An answer that can't be stored as it is: `errors` says for each field what is wrong and what to do."""

    def __init__(self, errors: dict[str, str]) -> None:
        super().__init__(" ".join(f"{field}: {message}" for field, message in errors.items()))
        self.errors = errors


class Asked(Exception):
    """An answer that waits for one more look: it contradicts itself (`contradiction` says how), or `former` was said
    on the card since it was shown.
    """

    def __init__(self, *, contradiction: str = "", former: Judgement | QualityLabel | None = None) -> None:
        super().__init__(contradiction or "answered meanwhile")
        self.contradiction, self.former = contradiction, former


@dataclass(frozen=True)
class Ahead:
    """How many new cards a page lacks after this answer, and which cards it has (with the answered one)."""

    lacking: int
    known: frozenset[uuid.UUID]


@dataclass
class Receipt:
    """What became of a submitted card. `kept` False: nothing was stored, and `message` says why.

    `numbers` and `cards` come with an answer that was told what the page lacks, if nothing stood in the way.
    """

    judgement: Judgement | None
    label: QualityLabel | None
    saved_at: datetime
    kept: bool
    message: str = ""
    numbers: Standing | None = None
    cards: tuple[Assignment, ...] = ()

    @property
    def skipped(self) -> bool:
        """Whether what was stored is a skip."""
        if self.judgement is not None:
            return self.judgement.verdict == Verdict.SKIP
        return self.label is not None and not self.label.level


def judgement_submit(*, key: uuid.UUID, annotator: User, verdict: str, **said: Any) -> Receipt:
    """`judgement_save` on the card with this key. Raises Assignment.DoesNotExist if it is not this annotator's."""
    cards = Assignment.objects.filter(key=key, annotator=annotator, pair__isnull=False)
    assignment = cards.with_said().with_heads().select_related("project").get()
    return judgement_save(assignment, verdict=verdict, **said)


def judgement_save(
    assignment: Assignment,
    *,
    verdict: str,
    strength: int | None = None,
    comment: str = "",
    reasons: Collection[str] = (),
    levels: Mapping[int, str] | None = None,
    shown_at: datetime | None = None,
    source: str = Source.BROWSER,
    revision: int | None = None,
    keep: bool | None = None,
    ahead: Ahead | None = None,
) -> Receipt:
    """Store one verdict (in terms of the pair's responses a and b) with the levels of its responses.

    `assignment` comes with its project, its pair, `with_said` and `with_heads`. `levels` maps response primary keys to
    levels; `reasons` are tags of the project as "a:TAG" and "b:TAG", or words of one's own. `revision` is the number
    of rows that the annotator had on this pair when the card was shown; without it the newest row tells a repetition
    from a correction, and nobody is asked. `keep` says that a contradiction is meant (True) or that nobody has been
    asked (False); without it nobody is, as for simulated annotators. With `ahead` the next cards come in the same
    transaction. Raises Refused if the answer is incomplete, Asked, ProjectArchived.
    """
    check_not_archived(assignment.project)
    pair = assignment.pair
    assert pair is not None
    comment = _clean(comment)
    levels = dict(levels or {})
    errors = _common_errors(comment, reasons)
    if verdict not in Verdict.values:
        errors["verdict"] = "Choose A, B, tie, both bad or skip."
    if strength is not None and strength not in (1, 2, 3):
        errors["strength"] = "Choose 1, 2 or 3, or leave it out."
    elif strength is not None and verdict not in (Verdict.A, Verdict.B):
        errors["strength"] = "A strength goes with A or B only: leave it out."
    errors |= _level_errors(assignment.project, pair, verdict, levels)
    if "reasons" not in errors and (unknown := _unknown_tag(assignment, reasons)) is not None:
        errors["reasons"] = f"“{unknown}” is not (or no longer) one of this project's reasons: leave it out."
    if errors:
        raise Refused(errors)
    contradicts = _contradiction(assignment, pair, verdict, levels)
    fields = {
        "verdict": verdict,
        "strength": strength,
        "reasons": list(reasons),
        "comment": comment,
        "shown_at": shown_at,
        "source": source,
        "contradiction_kept": bool(contradicts and keep),
    }
    question = contradicts if keep is False else ""

    def store(ledger: Ledger, *, locked: bool) -> Receipt:
        return _judgement_store(ledger, assignment, pair, fields, levels, revision, question, locked=locked)

    return _stored(assignment, store, ahead)


def _contradiction(assignment: Assignment, pair: Pair, verdict: str, levels: Mapping[int, str]) -> str:
    """What contradicts what, in terms of A and B as they stand on the card; "" where nothing does."""
    sides = [levels.get(pair.response_a_id, ""), levels.get(pair.response_b_id, "")]
    if assignment.left == Side.B:
        sides.reverse()
        verdict = {Verdict.A: Verdict.B, Verdict.B: Verdict.A}.get(Verdict(verdict), verdict)
    return contradiction(verdict, *sides) or ""


def _unknown_tag(assignment: Assignment, reasons: Collection[str]) -> str | None:
    """The first tag that the project has not and that this card was not answered with before."""
    tags = {reason for reason in reasons if reason[:2] in ("a:", "b:")}
    unknown = sorted(tag for tag in tags if tag[2:] not in assignment.project.reason_tags)
    if not unknown:
        return None
    former = Judgement.objects.filter(pair=assignment.pair, annotator=assignment.annotator_id)
    kept = {tag for row in former.values_list("reasons", flat=True) for tag in row}
    return next((tag[2:] for tag in unknown if tag not in kept), None)


def _clean(text: str) -> str:
    # PostgreSQL stores no NUL; browsers send CRLF.
    return text.replace("\x00", "").replace("\r\n", "\n").strip()


def _common_errors(comment: str, reasons: Collection[str] = ()) -> dict[str, str]:
    errors = {}
    if len(comment) > COMMENT_MAX:
        errors["comment"] = (
            f"At most {COMMENT_MAX:,} characters: shorten it by {len(comment) - COMMENT_MAX:,}."
        )
    if len(reasons) > REASONS_MAX or any(
        not isinstance(reason, str) or len(reason) > 80 for reason in reasons
    ):
        errors["reasons"] = f"At most {REASONS_MAX} short words: leave some out."
    return errors


def _level_errors(project: Project, pair: Pair, verdict: str, levels: Mapping[int, str]) -> dict[str, str]:
    """Errors by field `level_a` and `level_b` (or `levels`, for what belongs to neither response)."""
    sides = {"level_a": pair.response_a_id, "level_b": pair.response_b_id}
    errors = {}
    if any(pk not in sides.values() for pk in levels):
        errors["levels"] = "A level was given for a response that is not on this card: reload the page."
    for field, pk in sides.items():
        if pk in levels and levels[pk] not in Level.values:
            errors[field] = "Choose bad, normal or good."
        elif pk in levels and verdict == Verdict.SKIP:
            errors[field] = "A skipped card has no levels: leave them out, or give a verdict."
        elif pk not in levels and verdict != Verdict.SKIP and project.asks_pairs and project.asks_levels:
            errors[field] = "This project asks for a level of each response: choose bad, normal or good."
    return errors


class _Stale(Exception):
    """The card is not as it was read before the transaction: its rows have to be locked and read again."""


def _stored(assignment: Assignment, store: Callable[..., Receipt], ahead: Ahead | None) -> Receipt:
    """Run `store` in a transaction, and draw the next cards in it.

    What `store` knows was read before. If that is old (a double click, another tab of the same person, a reservation
    that ran out), it runs once more behind locks.
    """
    for locked in (False, True):
        ledger = Ledger(assignment.project, assignment.annotator_id)
        try:
            with transaction.atomic():
                receipt = store(ledger, locked=locked)
                if ahead is not None:
                    _draw_ahead(ledger, assignment, receipt, ahead)
                ledger.write()
                return receipt
        except (_Stale, IntegrityError):
            if locked:
                raise
    raise AssertionError("unreachable")


def _draw_ahead(ledger: Ledger, assignment: Assignment, receipt: Receipt, ahead: Ahead) -> None:
    """The next cards of an answer, unless the page does not know all that its annotator holds (another tab)."""
    project, annotator = assignment.project, assignment.annotator
    if (numbers := standing_of(assignment)) is None:
        return
    was_open = numbers.held
    ledger.settle(numbers)
    receipt.numbers = numbers
    if was_open > len(ahead.known):
        return
    minutes = project.reservation_minutes
    until = timezone.now() + timedelta(minutes=minutes)
    if assignment.reserved_until < until - timedelta(minutes=minutes / 4):
        # Whoever takes long over a card keeps the next ones, which were reserved with it.
        Assignment.objects.of(project, annotator).open().update(reserved_until=until)
    while len(receipt.cards) < ahead.lacking:
        card = draw(numbers, ledger, project, annotator, until)
        if card is None:
            return
        receipt.cards += (card,)


def _lock(subject: Subject, assignment: Assignment) -> list[Assignment]:
    """The annotator's cards of this pair, oldest first, locked until the transaction ends; `assignment` follows."""
    same = {subject.field: subject.pk_in(assignment), "annotator": assignment.annotator_id}
    cards = list(Assignment.objects.filter(**same).order_by("pk").select_for_update(no_key=True))
    for card in cards:
        if card.pk == assignment.pk:
            assignment.state, assignment.holds_place = card.state, card.holds_place
    return cards


def _settle(
    ledger: Ledger,
    subject: Subject,
    assignment: Assignment,
    gain: int,
    *,
    was_answered: bool,
    cards: list[Assignment] | None,
) -> bool:
    """Close the card and count its answer. False: no place is left for it.

    Without `cards` the card is open and holds its place as far as is known; with them they are locked, and may be
    several, if the reservation ran out and the same pair was given to its annotator again.
    """
    pk, done = subject.pk_in(assignment), {"state": Assignment.State.DONE, "holds_place": False}
    if cards is None:
        card = Assignment.objects.open().filter(pk=assignment.pk, holds_place=True)
        if not card.update(**done):
            raise _Stale
        place_shift(ledger, subject, pk, done=gain, reserved=-1)
        ledger.add(subject, held=-1)
        return True
    opened = [card.pk for card in cards if card.state == Assignment.State.OPEN]
    was_own = bool(opened) or was_answered
    if any(card.holds_place for card in cards if card.state == Assignment.State.OPEN):
        place_shift(ledger, subject, pk, done=gain, reserved=-1, was_own=was_own)
    elif not place_shift(ledger, subject, pk, done=gain, only_if_free=gain > 0, was_own=was_own):
        Assignment.objects.filter(pk__in=opened).update(state=Assignment.State.EXPIRED)
        place_shift(ledger, subject, pk, was_own=was_own, is_own=was_answered)
        ledger.add(subject, held=-len(opened))
        return False
    Assignment.objects.filter(pk__in=[assignment.pk, *opened]).update(**done)
    ledger.add(subject, held=-len(opened))
    return True


def _no_place(subject: Subject) -> Receipt:
    thing = "pair" if subject is PAIRS else "response"
    message = (
        f"Not stored: your reservation of this {thing} had ended, and meanwhile others gave all the judgements that "
        "it wanted. Nothing else is lost; go on with the next card."
    )
    return Receipt(None, None, timezone.now(), kept=False, message=message)


def _late_message(subject: Subject) -> str:
    thing = "pair" if subject is PAIRS else "response"
    return f"Your reservation had ended, but the {thing} still wanted a judgement: it is kept."


def _same_intent(assignment: Assignment, rows: list[Any], revision: int | None, head: Any) -> list[Any]:
    """The rows that a repeated sending may be a repetition of: the one with its revision, and the newest.

    An open card is only repeated by its own rows: it still has to be closed.
    """
    found = []
    if revision is not None and 0 <= revision < len(rows):
        found.append(rows[revision])
    if head is not None:
        found.append(head)
    closed = assignment.state != Assignment.State.OPEN
    return [row for row in found if not row.retraction and (closed or row.assignment_id == assignment.pk)]


def _judgement_store(
    ledger: Ledger,
    assignment: Assignment,
    pair: Pair,
    fields: dict[str, Any],
    levels: dict[int, str],
    revision: int | None,
    question: str,
    *,
    locked: bool,
) -> Receipt:
    holds = assignment.state == Assignment.State.OPEN and assignment.holds_place
    cards, rows = None, []
    if locked or assignment.said or not holds:
        cards = _lock(PAIRS, assignment)
        rows = list(Judgement.objects.filter(pair=pair, annotator=assignment.annotator_id).order_by("pk"))
    own = [row for row in rows if row.assignment_id == assignment.pk]
    head = next((row for row in rows if row.is_current), None)
    compared = ("verdict", "strength", "reasons", "comment")
    for row in _same_intent(assignment, rows, revision, head):
        if all(getattr(row, name) == fields[name] for name in compared) and _levels_of(row) == levels:
            return Receipt(row, None, row.created_at, kept=True)
    if revision not in (None, len(rows)) and head is not None and not head.retraction:
        raise Asked(former=head)
    if question:
        raise Asked(contradiction=question)

    before, after = _kind(head), "skipped" if fields["verdict"] == Verdict.SKIP else "judged"
    late = assignment.state == Assignment.State.EXPIRED
    gain = int(after == "judged") - int(before == "judged")
    if not _settle(ledger, PAIRS, assignment, gain, was_answered=bool(before), cards=cards):
        return _no_place(PAIRS)
    _count(ledger, PAIRS, before, after)
    if head is not None:
        Judgement.objects.filter(pk=head.pk).update(is_current=False)
    judgement = Judgement.objects.create(
        pair=pair,
        annotator_id=assignment.annotator_id,
        assignment=assignment,
        left=assignment.left,
        policy=assignment.policy,
        propensity=assignment.propensity,
        client_key=f"{assignment.key}:{len(own)}",
        supersedes=head,
        **fields,
    )
    labels: list[QualityLabel] = []
    if levels:
        heads = _level_heads(judgement.annotator_id, levels) if locked else _heads_of(assignment, pair)
        labels = _levels_store(judgement, levels, heads)
    of_levels = ((Kind.LEVEL_CREATED, _level_told(label)) for label in labels)
    events_record(assignment.project, (Kind.JUDGEMENT_CREATED, _told(judgement)), *of_levels)
    message = _late_message(PAIRS) if late else ""
    return Receipt(judgement, None, judgement.created_at, kept=True, message=message)


def _told(judgement: Judgement) -> dict[str, Any]:
    """What those who listen are told of a judgement: ids and plain values."""
    return {
        "judgement": judgement.pk,
        "pair": judgement.pair_id,
        "annotator": judgement.annotator_id,
        "verdict": str(judgement.verdict),
        "strength": judgement.strength,
        "source": str(judgement.source),
        "supersedes": judgement.supersedes_id,
    }


def _level_told(label: QualityLabel) -> dict[str, Any]:
    return {
        "quality_label": label.pk,
        "response": label.response_id,
        "annotator": label.annotator_id,
        "level": str(label.level),
        "judgement": label.judgement_id,
        "source": str(label.source),
        "supersedes": label.supersedes_id,
    }


def _taken_back(project: Project, row: Judgement | QualityLabel) -> None:
    """`row` takes back what its annotator said before."""
    subject = {"pair": row.pair_id} if isinstance(row, Judgement) else {"response": row.response_id}
    of = "judgement" if isinstance(row, Judgement) else "quality_label"
    told = {of: row.supersedes_id, "by": row.pk, "annotator": row.annotator_id, **subject}
    event_record(project, Kind.JUDGEMENT_TAKEN_BACK, told)


def _kind(head: Judgement | None) -> str:
    """What an answer counts as among its annotator's numbers; "" where there is none (any more)."""
    if head is None or head.retraction:
        return ""
    return "skipped" if head.verdict == Verdict.SKIP else "judged"


def _count(ledger: Ledger, subject: Subject, before: str, after: str) -> None:
    """An answer in place of another in its annotator's numbers."""
    for kind, change in ((before, -1), (after, 1)):
        if kind:
            ledger.add(subject, **{kind: change})


def _levels_of(judgement: Judgement) -> dict[int, str]:
    labels = judgement.quality_labels.filter(retraction=False).order_by("pk")
    return dict(labels.values_list("response_id", "level"))


@dataclass(frozen=True)
class _Head:
    """The current row of an annotator's levels of one response."""

    pk: int
    level: str


def _heads_of(assignment: Any, pair: Pair) -> dict[int, _Head]:
    """What `with_heads` has read. If that is old, the row that the database allows once tells so."""
    found = {
        pair.response_a_id: (assignment.head_a, assignment.level_a),
        pair.response_b_id: (assignment.head_b, assignment.level_b),
    }
    return {pk: _Head(*head) for pk, head in found.items() if head[0] is not None}


def _level_heads(annotator_id: int, response_ids: Collection[int]) -> dict[int, _Head]:
    heads = QualityLabel.objects.filter(
        annotator_id=annotator_id, response_id__in=response_ids, is_current=True
    )
    return {head.response_id: _Head(head.pk, head.level) for head in heads.select_for_update()}


def _levels_store(
    judgement: Judgement, levels: dict[int, str], heads: dict[int, _Head]
) -> list[QualityLabel]:
    """The levels given with a judgement, each superseding the annotator's former one of the same response."""
    former = [heads[pk].pk for pk in levels if pk in heads]
    if former and QualityLabel.objects.filter(pk__in=former, is_current=True).update(is_current=False) != len(
        former
    ):
        raise _Stale
    new = [pk for pk in levels if not (head := heads.get(pk)) or not head.level]
    if new:
        # In the order of primary keys: two people who judge the same responses take the row locks in one order.
        rows = Response.objects.filter(pk__in=new).order_by("pk").select_for_update(no_key=True)
        Response.objects.filter(pk__in=rows.values("pk")[: len(new)]).update(labelled=F("labelled") + 1)
    return QualityLabel.objects.bulk_create(
        QualityLabel(
            response_id=response_id,
            level=level,
            supersedes_id=heads[response_id].pk if response_id in heads else None,
            annotator_id=judgement.annotator_id,
            judgement=judgement,
            shown_at=judgement.shown_at,
            created_at=judgement.created_at,
            source=judgement.source,
            client_key=f"{judgement.client_key}:{response_id}",
        )
        for response_id, level in sorted(levels.items())
    )


def _level_gain(head: QualityLabel | None, level: str) -> int:
    return int(level != "") - int(head is not None and head.level != "")


def _level_append(
    *, response_id: int, head: QualityLabel | None, level: str, count: bool = True, **fields: Any
) -> QualityLabel:
    """One more row of an annotator's chain of levels for a response; "" takes the level back."""
    if head is not None:
        QualityLabel.objects.filter(pk=head.pk).update(is_current=False)
    if count and (gain := _level_gain(head, level)):
        Response.objects.filter(pk=response_id).update(labelled=F("labelled") + gain)
    return QualityLabel.objects.create(
        response_id=response_id, level=level, retraction=not level, supersedes=head, **fields
    )


def level_submit(*, key: uuid.UUID, annotator: User, level: str, **said: Any) -> Receipt:
    """`level_save` on the card with this key. Raises Assignment.DoesNotExist if it is not this annotator's."""
    cards = Assignment.objects.filter(key=key, annotator=annotator, response__isnull=False)
    return level_save(cards.with_said().select_related("project").get(), level=level, **said)


def level_save(
    assignment: Assignment,
    *,
    level: str,
    comment: str = "",
    shown_at: datetime | None = None,
    source: str = Source.BROWSER,
    revision: int | None = None,
    ahead: Ahead | None = None,
) -> Receipt:
    """Store one level for a lone response (projects that ask for levels only); `level` may be "skip".

    The rest is as for `judgement_save`. Raises Refused if the answer is incomplete, Asked, ProjectArchived.
    """
    check_not_archived(assignment.project)
    comment = _clean(comment)
    errors = _common_errors(comment)
    if level != Verdict.SKIP and level not in Level.values:
        errors["level"] = "Choose bad, normal or good, or skip the card."
    if errors:
        raise Refused(errors)
    fields = {"comment": comment, "shown_at": shown_at, "source": source}
    said = "" if level == Verdict.SKIP else level

    def store(ledger: Ledger, *, locked: bool) -> Receipt:
        return _level_store(ledger, assignment, said, fields, revision, locked=locked)

    return _stored(assignment, store, ahead)


def _level_store(
    ledger: Ledger,
    assignment: Assignment,
    level: str,
    fields: dict[str, Any],
    revision: int | None,
    *,
    locked: bool,
) -> Receipt:
    response_id = RESPONSES.pk_in(assignment)
    holds = assignment.state == Assignment.State.OPEN and assignment.holds_place
    cards, rows = None, []
    if locked or assignment.said or not holds:
        cards = _lock(RESPONSES, assignment)
        mine = QualityLabel.objects.filter(response=response_id, annotator=assignment.annotator_id)
        rows = list(mine.order_by("pk"))
    own = [row for row in rows if row.assignment_id == assignment.pk]
    head = next((row for row in rows if row.is_current), None)
    for row in _same_intent(assignment, rows, revision, head):
        if row.level == level and row.comment == fields["comment"]:
            return Receipt(None, row, row.created_at, kept=True)
    skipped = bool(own) and own[-1].retraction and assignment.state == Assignment.State.DONE
    if not level and skipped:
        return Receipt(None, own[-1], own[-1].created_at, kept=True)  # the same skip again
    if (
        revision not in (None, len(rows))
        and head is not None
        and (not head.retraction or (skipped and head == own[-1]))
    ):
        raise Asked(former=head)

    before = "judged" if head is not None and head.level else "skipped" if skipped else ""
    late = assignment.state == Assignment.State.EXPIRED
    if not _settle(
        ledger, RESPONSES, assignment, _level_gain(head, level), was_answered=bool(before), cards=cards
    ):
        return _no_place(RESPONSES)
    _count(ledger, RESPONSES, before, "judged" if level else "skipped")
    label = _level_append(
        response_id=response_id,
        head=head,
        level=level,
        count=False,  # _settle has counted it together with the place
        annotator_id=assignment.annotator_id,
        assignment=assignment,
        client_key=f"{assignment.key}:{len(own)}",
        **fields,
    )
    if level:
        event_record(assignment.project, Kind.LEVEL_CREATED, _level_told(label))
    elif before == "judged":
        _taken_back(assignment.project, label)
    return Receipt(None, label, label.created_at, kept=True, message=_late_message(RESPONSES) if late else "")


def undoable(*, project: Project, annotator: User) -> Judgement | QualityLabel | None:
    """What an undo would take back: this annotator's newest answer (or skip) of the last 24 hours, with its card."""
    if project.archived_at is not None:
        return None
    since = timezone.now() - UNDO_WITHIN
    if project.asks_pairs:
        rows: QuerySet[Any] = Judgement.objects.current()
    else:
        # A finished card whose row has no level is a skipped one; a card that was taken back is open.
        rows = QualityLabel.objects.filter(is_current=True, assignment__state=Assignment.State.DONE)
    rows = rows.filter(annotator=annotator, created_at__gte=since).select_related("assignment")
    rows = rows.order_by("-created_at")
    # Nearly always the newest one is of this project; asked for that, PostgreSQL would sort all of the day's.
    newest = list(rows[:_NEWEST])
    here = (row for row in newest if row.assignment is not None and row.assignment.project_id == project.pk)
    found = next(here, None)
    if found is None and len(newest) == _NEWEST:
        found = rows.filter(assignment__project=project).first()
    return found


def judgement_undo(*, project: Project, annotator: User, key: uuid.UUID | None = None) -> Assignment | None:
    """Take the newest answer back and reopen its card; None if there is nothing to take back.

    What was said is superseded by a row that takes it back, and the card holds its place again if one is free. With
    `key` only that card is taken back: the same undo sent twice does not reach further than it was meant to.
    """
    check_not_archived(project)
    newest = undoable(project=project, annotator=annotator)
    if newest is None or newest.assignment is None or (key is not None and newest.assignment.key != key):
        reopened = Assignment.objects.of(project, annotator).open()
        return reopened.filter(key=key).first() if key is not None else None
    assignment = newest.assignment
    undo = _judgement_undo if isinstance(newest, Judgement) else _level_undo
    with transaction.atomic():
        ledger = Ledger(project, annotator.pk)
        undo(ledger, assignment)
        ledger.write()
    assignment.refresh_from_db()
    return assignment


def _reopen(ledger: Ledger, subject: Subject, assignment: Assignment, before: str) -> None:
    """DONE -> OPEN. The card holds its place again if one is free."""
    pk, gain = subject.pk_in(assignment), -int(before == "judged")
    free = place_shift(ledger, subject, pk, done=gain, reserved=1, only_if_free=True)
    if not free:
        place_shift(ledger, subject, pk, done=gain)
    Assignment.objects.filter(pk=assignment.pk).update(
        state=Assignment.State.OPEN,
        holds_place=free,
        reserved_until=timezone.now() + timedelta(minutes=ledger.project.reservation_minutes),
    )
    ledger.add(subject, held=1)
    _count(ledger, subject, before, "")


def _judgement_undo(ledger: Ledger, assignment: Assignment) -> None:
    pair_id = PAIRS.pk_in(assignment)
    _lock(PAIRS, assignment)
    own = list(Judgement.objects.filter(assignment=assignment).order_by("pk"))
    head = own[-1]
    if assignment.state != Assignment.State.DONE or not head.is_current or head.retraction:
        return  # another tab was faster
    _reopen(ledger, PAIRS, assignment, _kind(head))
    Judgement.objects.filter(pk=head.pk).update(is_current=False)
    client_key = f"{assignment.key}:{len(own)}"
    retraction = Judgement.objects.create(
        pair_id=pair_id,
        annotator_id=assignment.annotator_id,
        assignment=assignment,
        verdict=Verdict.SKIP,
        retraction=True,
        left=assignment.left,
        source=head.source,
        client_key=client_key,
        supersedes=head,
    )
    _taken_back(ledger.project, retraction)
    labels = head.quality_labels.filter(is_current=True).order_by("response_id")
    for label in labels.select_for_update():
        before = _level_before(label, assignment)
        _level_append(
            response_id=label.response_id,
            head=label,
            level=before.level if before else "",
            annotator_id=assignment.annotator_id,
            judgement=before.judgement if before else retraction,
            source=label.source,
            client_key=f"{client_key}:{label.response_id}",
        )


def _level_before(label: QualityLabel, assignment: Assignment) -> QualityLabel | None:
    """The level that the same person had given to the same response on another card before this card, if any."""
    before = label.supersedes
    while before is not None and not before.retraction:
        if before.judgement is None or before.judgement.assignment_id != assignment.pk:
            return before
        before = before.supersedes
    return None


def _level_undo(ledger: Ledger, assignment: Assignment) -> None:
    response_id = RESPONSES.pk_in(assignment)
    _lock(RESPONSES, assignment)
    own = list(QualityLabel.objects.filter(assignment=assignment).order_by("pk"))
    head = own[-1]
    if not head.is_current or assignment.state != Assignment.State.DONE:
        return  # another tab was faster
    _reopen(ledger, RESPONSES, assignment, "judged" if head.level else "skipped")
    retraction = _level_append(
        response_id=response_id,
        head=head,
        level="",
        count=False,  # _reopen has counted it together with the place
        annotator_id=assignment.annotator_id,
        assignment=assignment,
        source=head.source,
        client_key=f"{assignment.key}:{len(own)}",
    )
    if head.level:
        _taken_back(ledger.project, retraction)
