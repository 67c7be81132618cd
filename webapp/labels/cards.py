"""What a card shows and how its form is read. The page knows A and B by position only; here they become a and b."""

import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.http import QueryDict
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from webapp.corpus.models import Prompt, Response
from webapp.labels import services
from webapp.labels.contradictions import contradiction
from webapp.labels.models import Assignment, Judgement, Level, QualityLabel, Side, Source, Verdict

_CONTRADICTIONS = {
    f"{verdict}:{a}:{b}": sentence
    for verdict, word in {"left": "a", "right": "b", "tie": "tie", "both_bad": "both_bad"}.items()
    for a in Level.values
    for b in Level.values
    if (sentence := contradiction(word, a, b))
}

CONTRADICTIONS = json.dumps(_CONTRADICTIONS)
"""What the page asks about by itself: sentences by what stands in the form, "verdict:level of A:level of B"."""


@dataclass
class SideView:
    """One response of a card: `name` A or B is its position, never its identity; `rival` is the other one.

    It has a prompt where the two answer different ones: each then stands under its own.
    """

    name: str
    position: str
    response: Response
    rival: Response | None = None
    level: str = ""
    prompt: Prompt | None = None
    tags: list[str] = field(default_factory=list)
    offered: list[str] = field(default_factory=list)

    @property
    def field(self) -> str:
        return f"level_{self.position}" if self.position else "level"


@dataclass(frozen=True)
class Former:
    """When and what was answered on a card before. `asks`: it was answered since the page showed it."""

    at: datetime
    words: str
    asks: bool = False


@dataclass
class Card:
    """An assignment with its texts, what was answered so far, and what is wrong with that."""

    assignment: Assignment
    prompt: Prompt | None
    sides: list[SideView]
    revision: int = 0
    verdict: str = ""
    strength: int | None = None
    comment: str = ""
    errors: dict[str, str] = field(default_factory=dict)
    answered: bool = False
    # Its newest answer is, or was before it was taken back, a skip.
    skipped: bool = False
    shown_at: datetime | None = None
    # What has to be looked at once more: a contradiction in words, and what the form sends to keep it.
    question: str = ""
    keep: str = ""
    # What was said on the card before; in words where the page has to tell.
    former: Judgement | QualityLabel | None = None
    former_said: Former | None = None

    @property
    def is_pair(self) -> bool:
        return self.assignment.pair_id is not None

    @property
    def said(self) -> list[object]:
        """All that its fields show beside the project's own settings."""
        sides = [[side.name, side.level, side.tags, side.offered] for side in self.sides]
        return [self.is_pair, self.verdict, self.strength, self.comment, sides]

    @property
    def has_tags(self) -> bool:
        return any(side.offered for side in self.sides)

    @property
    def asks(self) -> bool:
        """Whether it asks for one more look, with nothing wrong."""
        return not self.errors and bool(self.question or self.former_said)

    @property
    def error_text(self) -> str:
        """What is wrong with the answer, the levels first."""
        names = {side.field: side.name for side in self.sides} | {"comment": "Comment"}
        fields = [*(side.field for side in self.sides), "verdict", "strength", "reasons", "comment", "levels"]
        return " ".join(
            f"{name}: {self.errors[field]}" if (name := names.get(field)) else self.errors[field]
            for field in fields
            if field in self.errors
        )

    def answer(self, answers: "Answers") -> None:
        """Put a form's answers back on the card (it could not be stored as it was). The revision is the newest."""
        self.verdict = "" if answers.skipped else answers.verdict
        self.strength, self.comment = answers.strength, answers.comment
        self.shown_at, self.answered = answers.shown_at, True
        for side in self.sides:
            side.level = answers.levels.get(side.field, "")
            side.tags = [tag for tag in answers.tags.get(side.position, []) if tag in side.offered]


@dataclass(frozen=True)
class Answers:
    """A submitted form, in the form's own terms: verdict left, right, tie, both_bad or skip; levels by field."""

    verdict: str
    strength: int | None
    comment: str
    levels: dict[str, str]
    tags: dict[str, list[str]]
    shown_at: datetime | None
    revision: int
    keep: str

    @classmethod
    def read(cls, form: QueryDict) -> "Answers":
        verdict = Verdict.SKIP.value if form.get("skip") else form.get("verdict", "")
        strength = form.get("strength", "")
        levels = {name: said for name in ("level", "level_left", "level_right") if (said := form.get(name))}
        revision = form.get("revision", "")
        return cls(
            verdict=verdict,
            # The form can't take back a strength when the verdict changes to a tie without JavaScript.
            strength=_whole(strength) if verdict in ("left", "right") and strength else None,
            comment=form.get("comment", ""),
            levels={} if verdict == Verdict.SKIP else levels,
            tags={side: list(dict.fromkeys(form.getlist(f"tags_{side}"))) for side in ("left", "right")},
            shown_at=recent(_moment(form.get("shown_at", ""))),
            # A form that does not say what it saw has seen nothing.
            revision=_whole(revision) if revision else 0,
            keep=form.get("keep", ""),
        )

    @property
    def skipped(self) -> bool:
        return self.verdict == Verdict.SKIP

    @property
    def said(self) -> str:
        """Verdict and levels as `keep` names them."""
        return f"{self.verdict}:{self.levels.get('level_left', '')}:{self.levels.get('level_right', '')}"

    def verdict_for(self, assignment: Assignment) -> str:
        """The verdict in terms of the pair's responses a and b; unknown words stay as they are, to be refused."""
        a, b = _positions(assignment)
        return {a: Verdict.A.value, b: Verdict.B.value}.get(self.verdict, self.verdict)

    def levels_for(self, assignment: Assignment) -> dict[int, str]:
        """The levels by response primary key."""
        assert assignment.pair is not None
        a, b = _positions(assignment)
        pks = {f"level_{a}": assignment.pair.response_a_id, f"level_{b}": assignment.pair.response_b_id}
        return {pks[name]: level for name, level in self.levels.items() if name in pks}

    def reasons_for(self, assignment: Assignment) -> list[str]:
        """The tags as "a:TAG" and "b:TAG", in the project's order, so that the same ones are the same list."""
        a, b = _positions(assignment)
        order = {tag: place for place, tag in enumerate(assignment.project.reason_tags)}
        return [
            f"{side}:{tag}"
            for side, position in (("a", a), ("b", b))
            for tag in sorted(self.tags[position], key=lambda tag: (order.get(tag, len(order)), tag))
        ]


def form_errors(errors: dict[str, str], assignment: Assignment) -> dict[str, str]:
    """Errors by the form's field names (the services name level_a and level_b)."""
    a, b = _positions(assignment)
    names = {"level_a": f"level_{a}", "level_b": f"level_{b}"}
    return {names.get(name, name): message for name, message in errors.items()}


def _positions(assignment: Assignment) -> tuple[str, str]:
    """Where response a and response b stand."""
    return ("right", "left") if assignment.left == Side.B else ("left", "right")


def _whole(text: str) -> int:
    # -1 is no strength anybody may give, so that nonsense is refused by name.
    return int(text) if text.isdecimal() and len(text) < 6 else -1


def _moment(text: str) -> datetime | None:
    try:
        return parse_datetime(text)
    except ValueError:
        return None


def recent(moment: datetime | None) -> datetime | None:
    """The time at which a card was shown, as a browser or another front end says; None if it can't be true."""
    if moment is None or timezone.is_naive(moment):
        return None
    now = timezone.now()
    return moment if now - timedelta(days=7) < moment <= now + timedelta(seconds=5) else None


def answers_save(
    assignment: Assignment,
    answers: Answers,
    *,
    source: str = Source.BROWSER,
    ahead: services.Ahead | None = None,
) -> services.Receipt:
    """Store what was answered on a card, as `judgement_save` or `level_save` do; raises what they do."""
    if assignment.pair is None:
        return services.level_save(
            assignment,
            level="skip" if answers.skipped else answers.levels.get("level", ""),
            comment=answers.comment,
            shown_at=answers.shown_at,
            source=source,
            revision=answers.revision,
            ahead=ahead,
        )
    return services.judgement_save(
        assignment,
        verdict=answers.verdict_for(assignment),
        strength=answers.strength,
        comment=answers.comment,
        # A card may have been shown before the project stopped asking for levels.
        levels=answers.levels_for(assignment) if assignment.project.asks_levels else {},
        reasons=answers.reasons_for(assignment),
        shown_at=answers.shown_at,
        source=source,
        revision=answers.revision,
        keep=answers.keep == answers.said,
        ahead=ahead,
    )


def keys_in(text: str, limit: int = 8) -> list[uuid.UUID]:
    """The card keys in a comma-separated list that the browser sent; whatever is none is left out."""
    keys = []
    for word in text.split(",")[:limit]:
        try:
            keys.append(uuid.UUID(word.strip()))
        except ValueError:
            continue
    return keys


def cards_for(assignments: Iterable[Assignment]) -> list[Card]:
    """The cards of these assignments in their order, with what their annotator has answered on them before.

    No query for what the queue has just given; one for others, and one or two where there are earlier answers.
    """
    given = list(assignments)
    unread = [row.pk for row in given if row.said is None]
    read = {row.pk: row for row in Assignment.objects.filter(pk__in=unread).with_texts()} if unread else {}
    cards = [_card(read.get(row.pk, row)) for row in given]
    said = [card for card in cards if card.assignment.said]
    _fill_pairs([card for card in said if card.is_pair])
    _fill_lone([card for card in said if not card.is_pair])
    return cards


def _card(assignment: Assignment) -> Card:
    pair = assignment.pair
    if pair is None:
        assert assignment.response is not None
        side = SideView(name="", position="", response=assignment.response)
        return Card(assignment, assignment.response.prompt, [side])
    responses = [pair.response_a, pair.response_b]
    if assignment.left == Side.B:
        responses.reverse()
    left, right = responses
    sides = [SideView("A", "left", left, right), SideView("B", "right", right, left)]
    for side in sides:
        side.offered = list(assignment.project.reason_tags)
    if left.prompt_id == right.prompt_id:
        return Card(assignment, left.prompt, sides)
    for side in sides:
        side.prompt = side.response.prompt
    return Card(assignment, None, sides)


def _fill_pairs(cards: list[Card]) -> None:
    if not cards:
        return
    by_pair = {card.assignment.pair_id: card for card in cards}
    newest: dict[int, Judgement] = {}
    people = {card.assignment.annotator_id for card in cards}
    for row in Judgement.objects.filter(pair__in=by_pair, annotator__in=people).order_by("pk"):
        card = by_pair[row.pair_id]
        if row.annotator_id == card.assignment.annotator_id:
            card.revision += 1
            if not row.retraction:
                newest[row.pair_id] = row
    if not newest:
        return
    labels = QualityLabel.objects.filter(judgement__in=newest.values(), retraction=False).order_by("pk")
    levels = {(label.judgement_id, label.response_id): label.level for label in labels}
    for pair_id, row in newest.items():
        card = by_pair[pair_id]
        a, b = _positions(card.assignment)
        card.former, card.skipped = row, row.verdict == Verdict.SKIP
        card.answered = not card.skipped
        card.verdict = {"a": a, "b": b, "skip": ""}.get(row.verdict, row.verdict)
        card.strength, card.comment = row.strength, row.comment
        for side in card.sides:
            side.level = levels.get((row.pk, side.response.pk), "")
            side.tags = row.tags_of("a" if side.position == a else "b")
            # What the project no longer offers stays on a card that was answered with it.
            side.offered += [tag for tag in side.tags if tag not in side.offered]


def _fill_lone(cards: list[Card]) -> None:
    if not cards:
        return
    by_response = {card.assignment.response_id: card for card in cards}
    people = {card.assignment.annotator_id for card in cards}
    said: dict[int, list[QualityLabel]] = {}
    for row in QualityLabel.objects.filter(response__in=by_response, annotator__in=people).order_by("pk"):
        if row.annotator_id == by_response[row.response_id].assignment.annotator_id:
            said.setdefault(row.response_id, []).append(row)
    for response_id, rows in said.items():
        card = by_response[response_id]
        card.revision = len(rows)
        # The newest row of a card that is open again only takes the answer before it back.
        answers = rows if card.assignment.state == Assignment.State.DONE else rows[:-1]
        if answers:
            card.former = row = answers[-1]
            card.skipped, card.answered = not row.level, bool(row.level)
            card.sides[0].level, card.comment = row.level, row.comment
