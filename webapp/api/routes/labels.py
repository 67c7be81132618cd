"""Labelling by another front end: cards, answers, undo; and the judgements and levels that were given.

A card names its two responses left and right, as they have to be shown. Who wrote them is in no answer.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from django.db.models import Prefetch, QuerySet
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import Field, Query, Schema

from webapp.api.auth import ApiRequest, token
from webapp.api.paging import LIMIT, Cursor, Limit, Page, paged
from webapp.api.problems import Problem, refused
from webapp.api.routers import ProjectRouter
from webapp.api.schemas import Given, Key
from webapp.corpus.access import Access, project_for
from webapp.corpus.models import Project
from webapp.labels import queue, services
from webapp.labels.cards import Answers, Card, answers_save, cards_for, form_errors, recent
from webapp.labels.counters import Standing, subject_of, with_numbers
from webapp.labels.histories import in_words
from webapp.labels.models import Assignment, Judgement, LabelQuerySet, QualityLabel, Source

router = ProjectRouter(tags=["labels"])

MOST_CARDS = 10

LevelName = Literal["bad", "normal", "good"]
VerdictName = Literal["left", "right", "tie", "both_bad", "skip"]
Tags = Annotated[list[str], Field(max_length=services.REASONS_MAX)]


# --- Cards ---


class CardsAsked(Given):
    """How many cards the front end wants to hold; those that it holds already are among them."""

    count: int = Field(1, ge=1, le=MOST_CARDS)


class PromptShown(Schema):
    """A conversation, and the tools that the assistant was offered."""

    messages: list[dict[str, Any]]
    tools: list[Any]


class SideShown(Schema):
    """A response. `messages`: its turns, where it has several or tool calls; `prompt`: its own where two differ."""

    text: str
    messages: list[dict[str, Any]] | None
    prompt: PromptShown | None


class LevelsSaid(Given):
    """The levels of the two responses of a pair."""

    left: LevelName | None = None
    right: LevelName | None = None


class ReasonsSaid(Given):
    """Tags of the project, for each side."""

    left: Tags = []
    right: Tags = []


class Said(Schema):
    """What was answered on a card before."""

    verdict: VerdictName | None
    strength: int | None
    levels: LevelsSaid
    level: LevelName | None
    reasons: ReasonsSaid
    comment: str


class Asks(Schema):
    """What the card may be answered with. `levels_needed`: a verdict without them is refused."""

    verdicts: list[VerdictName]
    strengths: list[int]
    levels: list[LevelName]
    levels_needed: bool
    reasons: list[str]


class CardShown(Schema):
    """A pair (`left` and `right`), or a single response (`response`), reserved for whoever asked for it."""

    key: UUID
    kind: Literal["pair", "response"]
    state: Literal["open", "done", "expired"]
    reserved_until: datetime
    revision: int
    shown_at: datetime
    prompt: PromptShown | None
    left: SideShown | None
    right: SideShown | None
    response: SideShown | None
    asks: Asks
    said: Said | None


class Cards(Schema):
    """Cards, the oldest first, and how far one is. `nothing` says why there is no card: empty, done or busy."""

    cards: list[CardShown]
    judged: int
    skipped: int
    open: int
    nothing: Literal["empty", "done", "busy"] | None


@router.post("cards/next", response=Cards, auth=token("write"), summary="Reserve cards")
def cards_next(request: ApiRequest, slug: str, asked: CardsAsked) -> dict[str, Any]:
    """Cards for whoever asks, for the project's reservation time; asked again, the same ones come until they are
    answered. Which pair comes next is drawn as on the annotate page.
    """
    project = project_for(request, slug, "annotate")
    reserved, numbers = queue.cards_and_standing(project=project, annotator=request.user, count=asked.count)
    cards = [_shown(card) for card in cards_for(reserved)]
    return {"cards": cards, **_standing(project, request, numbers, empty=not cards)}


def _standing(project: Project, request: ApiRequest, numbers: Standing, *, empty: bool) -> dict[str, Any]:
    nothing = None
    if empty and not numbers.held:
        busy = queue.busy_count(project=project, annotator=request.user)
        nothing = "busy" if busy else "done" if subject_of(project).of(project).exists() else "empty"
    return {"judged": numbers.judged, "skipped": numbers.skipped, "open": numbers.open, "nothing": nothing}


def _shown(card: Card) -> dict[str, Any]:
    assignment, project = card.assignment, card.assignment.project
    sides = {
        side.position or "response": {
            "text": side.response.text,
            "messages": side.response.messages,
            "prompt": _prompt(side.prompt),
        }
        for side in card.sides
    }
    offered = list(dict.fromkeys(tag for side in card.sides for tag in side.offered))
    return {
        "key": assignment.key,
        "kind": "pair" if card.is_pair else "response",
        "state": assignment.state,
        "reserved_until": assignment.reserved_until,
        "revision": card.revision,
        "shown_at": timezone.now(),
        "prompt": _prompt(card.prompt),
        "left": sides.get("left"),
        "right": sides.get("right"),
        "response": sides.get("response"),
        "asks": {
            "verdicts": ["left", "tie", "both_bad", "right", "skip"] if card.is_pair else ["skip"],
            "strengths": [1, 2, 3] if card.is_pair else [],
            "levels": ["bad", "normal", "good"] if project.asks_levels or not card.is_pair else [],
            "levels_needed": project.asks_levels or not card.is_pair,
            "reasons": offered,
        },
        "said": _said(card) if card.former is not None else None,
    }


def _prompt(prompt: Any) -> dict[str, Any] | None:
    return None if prompt is None else {"messages": prompt.messages, "tools": prompt.tools}


def _said(card: Card) -> dict[str, Any]:
    sides = {side.position: side for side in card.sides}
    left, right, lone = sides.get("left"), sides.get("right"), sides.get("")
    return {
        "verdict": "skip" if card.skipped else card.verdict or None,
        "strength": card.strength,
        "levels": {"left": (left and left.level) or None, "right": (right and right.level) or None},
        "level": (lone and lone.level) or None,
        "reasons": {"left": left.tags if left else [], "right": right.tags if right else []},
        "comment": card.comment,
    }


@router.get("cards/{uuid:key}", response=CardShown, auth=token("read"), summary="One card of your own")
def card(request: ApiRequest, slug: str, key: UUID) -> dict[str, Any]:
    """An open card, or an answered one with its answer, to correct it."""
    project = project_for(request, slug, "annotate")
    own = Assignment.objects.of(project, request.user).with_texts()
    [found] = cards_for([get_object_or_404(own, key=key)])
    return _shown(found)


class Answer(Given):
    """The answer to a card, in terms of left and right. A card of a single response has a `level`, or is skipped.

    `revision` and `shown_at` are the card's. `keep` is what a 409 answer says to send when the answer is meant.
    """

    verdict: VerdictName | None = None
    strength: int | None = Field(None, ge=1, le=3)
    levels: LevelsSaid = LevelsSaid()
    level: LevelName | None = None
    reasons: ReasonsSaid = ReasonsSaid()
    comment: str = ""
    shown_at: datetime | None = None
    revision: int = Field(0, ge=0, le=1_000_000)
    keep: str = ""

    def answers(self) -> Answers:
        """The same as the card's form would send it."""
        levels = {"level": self.level, "level_left": self.levels.left, "level_right": self.levels.right}
        return Answers(
            verdict=self.verdict or "",
            strength=self.strength,
            comment=self.comment,
            levels={name: level for name, level in levels.items() if level is not None},
            tags={side: list(dict.fromkeys(getattr(self.reasons, side))) for side in ("left", "right")},
            shown_at=recent(self.shown_at),
            revision=self.revision,
            keep=self.keep,
        )


class Receipt(Schema):
    """What became of an answer. `kept` False: nothing was stored, and `message` says why."""

    kept: bool
    saved_at: datetime
    message: str
    judgement: int | None
    level: int | None


@router.post("cards/{uuid:key}", response=Receipt, auth=token("write"), summary="Answer a card")
def card_answer(request: ApiRequest, slug: str, key: UUID, answer: Answer) -> dict[str, Any]:
    """Store an answer. The same answer sent again changes nothing and gets the same receipt; another one corrects it.

    422: the answer can't be stored as it is. 409: it waits for one more look, since verdict and levels contradict each
    other (send `keep` as the answer says), or since the card was answered meanwhile (send its new `revision`).
    """
    project = project_for(request, slug, "annotate")
    own = Assignment.objects.of(project, request.user).with_said().with_heads()
    assignment = get_object_or_404(with_numbers(own), key=key)
    assignment.project, assignment.annotator = project, request.user
    answers = answer.answers()
    try:
        receipt = answers_save(assignment, answers, source=Source.API)
    except services.Refused as refusal:
        errors = form_errors(refusal.errors, assignment)
        raise refused(
            {"field": _FIELDS.get(name, name), "message": _WRONG, "remedy": text}
            for name, text in errors.items()
        ) from None
    except services.Asked as asked:
        raise _look_again(assignment, answers, asked) from None
    return {
        "kept": receipt.kept,
        "saved_at": receipt.saved_at,
        "message": receipt.message,
        "judgement": receipt.judgement and receipt.judgement.pk,
        "level": receipt.label and receipt.label.pk,
    }


_FIELDS = {"level_left": "levels.left", "level_right": "levels.right"}
_WRONG = "This can't be stored as it is."


def _look_again(assignment: Assignment, answers: Answers, asked: services.Asked) -> Problem:
    [found] = cards_for(Assignment.objects.filter(pk=assignment.pk).with_texts())
    if asked.former is not None:
        words = in_words(asked.former, assignment.left)
        return Problem(
            409,
            "The card was answered since it was shown",
            f"Its answer is: {words}. Send revision {found.revision} to replace it.",
            errors=[
                {
                    "field": "revision",
                    "message": "It is older than the card's newest answer.",
                    "remedy": f"Send {found.revision} to replace that answer.",
                }
            ],
            asks="answered",
            revision=found.revision,
            keep=answers.keep,
        )
    return Problem(
        409,
        "Verdict and levels contradict each other",
        asked.contradiction,
        errors=[
            {
                "field": "keep",
                "message": asked.contradiction,
                "remedy": f"Send keep “{answers.said}” if it is meant, or another answer.",
            }
        ],
        asks="contradiction",
        revision=found.revision,
        keep=answers.said,
    )


class Undo(Given):
    """`key`: only this card is taken back, so that the same undo sent twice reaches no further."""

    key: UUID | None = None


class Undone(Schema):
    """The card that is open again; null if there was nothing to take back."""

    card: CardShown | None


@router.post("cards/undo", response=Undone, auth=token("write"), summary="Take your newest answer back")
def cards_undo(request: ApiRequest, slug: str, undo: Undo) -> dict[str, Any]:
    """The newest answer of the last 24 hours is taken back, and its card is open again."""
    project = project_for(request, slug, "annotate")
    reopened = services.judgement_undo(project=project, annotator=request.user, key=undo.key)
    cards = cards_for([reopened] if reopened else [])
    return {"card": _shown(cards[0]) if cards else None}


# --- What was said ---


class LabelFilter(Schema):
    """`since`: only rows with a larger id. `superseded`: also what was corrected or taken back."""

    since: Key | None = None
    annotator: Key | None = None
    superseded: bool = False


class Person(Schema):
    id: int
    name: str
    kind: str


class LevelGiven(Schema):
    response: int
    level: str


class JudgementRow(Schema):
    """A verdict on a pair, in terms of its responses a and b. `left` says which of them stood left.

    `annotator`, `external_id`, `policy` and `propensity` are null for annotators, who see their own judgements.
    """

    id: int
    pair: int
    external_id: str | None
    card: UUID | None
    annotator: Person | None
    verdict: str
    strength: int | None
    reasons: list[Any]
    contradiction_kept: bool
    comment: str
    levels: list[LevelGiven]
    left: str
    policy: str | None
    propensity: float | None
    source: str
    shown_at: datetime | None
    created_at: datetime
    is_current: bool
    retraction: bool


@router.get("judgements", response=Page[JudgementRow], auth=token("read"), summary="Judgements")
def judgements(
    request: ApiRequest, slug: str, asked: Query[LabelFilter], limit: Limit = LIMIT, cursor: Cursor = None
) -> dict[str, Any]:
    """Judgements, the oldest first: of everybody for researchers and admins, one's own for annotators."""
    project = project_for(request, slug)
    access: Access = request.access
    rows = _asked_for(Judgement.objects.of(project), request, access, asked)
    levels = QualityLabel.objects.filter(retraction=False).order_by("pk")
    rows = rows.select_related("pair", "annotator", "assignment")
    rows = rows.prefetch_related(Prefetch("quality_labels", queryset=levels))

    def shown(page: list[Judgement]) -> list[dict[str, Any]]:
        return [_judgement(row, reads=access.read) for row in page]

    return paged(rows, cursor, limit, oldest_first=True, shown=shown)


def _asked_for(
    every: LabelQuerySet, request: ApiRequest, access: Access, asked: LabelFilter
) -> QuerySet[Any]:
    rows: QuerySet[Any] = every.of_people() if asked.superseded else every.current()
    if not access.read:
        rows = rows.filter(annotator=request.user)
    if asked.annotator is not None:
        rows = rows.filter(annotator=asked.annotator)
    return rows if asked.since is None else rows.filter(pk__gt=asked.since)


def _common(row: Judgement | QualityLabel, *, reads: bool) -> dict[str, Any]:
    return {
        "id": row.pk,
        "card": row.assignment.key if row.assignment else None,
        "annotator": {"id": row.annotator_id, "name": row.annotator.display_name, "kind": row.annotator.kind}
        if reads
        else None,
        "comment": row.comment,
        "source": row.source,
        "shown_at": row.shown_at,
        "created_at": row.created_at,
        "is_current": row.is_current,
        "retraction": row.retraction,
    }


def _judgement(row: Judgement, *, reads: bool) -> dict[str, Any]:
    return {
        **_common(row, reads=reads),
        "pair": row.pair_id,
        "external_id": row.pair.external_id if reads else None,
        "verdict": row.verdict,
        "strength": row.strength,
        "reasons": row.reasons,
        "contradiction_kept": row.contradiction_kept,
        "levels": _levels(row.quality_labels.all()),
        "left": row.left,
        "policy": row.policy if reads else None,
        "propensity": row.propensity if reads else None,
    }


def _levels(labels: Iterable[QualityLabel]) -> list[dict[str, Any]]:
    return [{"response": label.response_id, "level": label.level} for label in labels]


class LevelRow(Schema):
    """A level of a response; `judgement` is the one that it was given with, if any."""

    id: int
    response: int
    external_id: str | None
    level: str
    card: UUID | None
    judgement: int | None
    annotator: Person | None
    comment: str
    source: str
    shown_at: datetime | None
    created_at: datetime
    is_current: bool
    retraction: bool


@router.get("levels", response=Page[LevelRow], auth=token("read"), summary="Quality levels")
def levels(
    request: ApiRequest, slug: str, asked: Query[LabelFilter], limit: Limit = LIMIT, cursor: Cursor = None
) -> dict[str, Any]:
    """Quality levels, the oldest first: of everybody for researchers and admins, one's own for annotators."""
    project = project_for(request, slug)
    access: Access = request.access
    rows = _asked_for(QualityLabel.objects.of(project), request, access, asked)
    rows = rows.select_related("response", "annotator", "assignment")

    def shown(page: list[QualityLabel]) -> list[dict[str, Any]]:
        return [_level(row, reads=access.read) for row in page]

    return paged(rows, cursor, limit, oldest_first=True, shown=shown)


def _level(row: QualityLabel, *, reads: bool) -> dict[str, Any]:
    return {
        **_common(row, reads=reads),
        "response": row.response_id,
        "external_id": row.response.external_id if reads else None,
        "level": row.level,
        "judgement": row.judgement_id,
    }
