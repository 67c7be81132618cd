"""What a card shows and how its form is read. The page knows A and B by position only; here they become a and b."""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.utils import timezone
from django.utils.dateparse import parse_datetime

from webapp.corpus.models import Prompt, Response
from webapp.labels.models import Assignment, Judgement, QualityLabel, Side, Verdict


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

    @property
    def field(self) -> str:
        return f"level_{self.position}" if self.position else "level"


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
    shown_at: datetime | None = None

    @property
    def is_pair(self) -> bool:
        return self.assignment.pair_id is not None

    def answer(self, answers: "Answers") -> None:
        """Put a form's answers back on the card (it could not be stored as it was)."""
        self.verdict, self.strength, self.comment = answers.verdict, answers.strength, answers.comment
        self.shown_at, self.answered = answers.shown_at, True
        if answers.revision is not None:
            self.revision = answers.revision
        for side in self.sides:
            side.level = answers.levels.get(side.field, "")


@dataclass(frozen=True)
class Answers:
    """A submitted form, in the form's own terms: verdict left, right, tie, both_bad or skip; levels by field."""

    verdict: str
    strength: int | None
    comment: str
    levels: dict[str, str]
    shown_at: datetime | None
    revision: int | None

    @classmethod
    def read(cls, form: Mapping[str, str]) -> "Answers":
        verdict = Verdict.SKIP.value if form.get("skip") else form.get("verdict", "")
        strength = form.get("strength", "")
        levels = {name: form[name] for name in ("level", "level_left", "level_right") if form.get(name)}
        skipped = verdict == Verdict.SKIP
        return cls(
            verdict=verdict,
            # The form can't take back a strength when the verdict changes to a tie without JavaScript.
            strength=_whole(strength) if verdict in ("left", "right") and strength else None,
            comment=form.get("comment", ""),
            levels={} if skipped else levels,
            shown_at=_recent(form.get("shown_at", "")),
            revision=_whole(form["revision"]) if form.get("revision", "").isdecimal() else None,
        )

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


def _recent(text: str) -> datetime | None:
    """The time a browser says the card was shown; None if it can't be true."""
    try:
        moment = parse_datetime(text)
    except ValueError:
        return None
    if moment is None or timezone.is_naive(moment):
        return None
    now = timezone.now()
    return moment if now - timedelta(days=7) < moment <= now + timedelta(seconds=5) else None


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

    Three queries, whatever their number (four when there are earlier answers).
    """
    keys = [assignment.pk for assignment in assignments]
    rows = Assignment.objects.filter(pk__in=keys).select_related(
        "pair__response_a__prompt", "pair__response_b__prompt", "response__prompt"
    )
    found = {row.pk: row for row in rows}
    cards = [_card(found[pk]) for pk in keys if pk in found]
    _fill_pairs([card for card in cards if card.is_pair])
    _fill_lone([card for card in cards if not card.is_pair])
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
    if left.prompt_id == right.prompt_id:
        return Card(assignment, left.prompt, sides)
    for side in sides:
        side.prompt = side.response.prompt
    return Card(assignment, None, sides)


def _fill_pairs(cards: list[Card]) -> None:
    if not cards:
        return
    by_pk = {card.assignment.pk: card for card in cards}
    newest: dict[int, Judgement] = {}
    for row in Judgement.objects.filter(assignment__in=by_pk).order_by("pk"):
        assert row.assignment_id is not None
        by_pk[row.assignment_id].revision += 1
        if not row.retraction:
            newest[row.assignment_id] = row
    if not newest:
        return
    labels = QualityLabel.objects.filter(judgement__in=newest.values(), retraction=False).order_by("pk")
    levels = {(label.judgement_id, label.response_id): label.level for label in labels}
    for pk, row in newest.items():
        card = by_pk[pk]
        a, b = _positions(card.assignment)
        card.answered = row.verdict != Verdict.SKIP
        card.verdict = {"a": a, "b": b, "skip": ""}.get(row.verdict, row.verdict)
        card.strength, card.comment = row.strength, row.comment
        for side in card.sides:
            side.level = levels.get((row.pk, side.response.pk), "")


def _fill_lone(cards: list[Card]) -> None:
    if not cards:
        return
    by_pk = {card.assignment.pk: card for card in cards}
    for row in QualityLabel.objects.filter(assignment__in=by_pk).order_by("pk"):
        assert row.assignment_id is not None
        card = by_pk[row.assignment_id]
        card.revision += 1
        if row.level:
            card.sides[0].level, card.comment, card.answered = row.level, row.comment, True
