"""What one annotator has said so far: reads for their own pages."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Count, Prefetch, Q, QuerySet

from webapp.accounts.models import User
from webapp.corpus.models import Project
from webapp.labels.models import Judgement, QualityLabel, Side, Verdict

STRENGTHS = {1: "slightly", 2: "clearly", 3: "much"}


def own_judgements(*, project: Project, annotator: User) -> QuerySet[Judgement]:
    """Their current judgements (skips too), newest first, with pairs, texts and levels: two queries for a page."""
    rows = Judgement.objects.of(project).by(annotator).current()
    rows = rows.select_related("assignment", "pair__response_a__prompt", "pair__response_b__prompt")
    levels = QualityLabel.objects.filter(retraction=False).order_by("pk")
    return rows.prefetch_related(Prefetch("quality_labels", queryset=levels)).order_by("-created_at", "-pk")


def own_levels(*, project: Project, annotator: User) -> QuerySet[QualityLabel]:
    """Their current levels (skips too), newest first, with responses and prompts."""
    rows = QualityLabel.objects.of(project).by(annotator).answers()
    return rows.select_related("assignment", "response__prompt").order_by("-created_at", "-pk")


@dataclass(frozen=True)
class Counts:
    """How many cards of a project somebody has answered, and skipped."""

    judged: int
    skipped: int

    @property
    def words(self) -> str:
        return f"{self.judged:,} judged" + (f", {self.skipped:,} skipped" if self.skipped else "")


def own_counts(*, project: Project, annotator: User) -> Counts:
    """What the rows of `own_judgements` or `own_levels` add up to. One query."""
    if project.asks_pairs:
        rows: QuerySet[Any] = Judgement.objects.of(project).by(annotator).current()
        skip = Q(verdict=Verdict.SKIP)
    else:
        rows = QualityLabel.objects.of(project).by(annotator).answers()
        skip = Q(level="")
    return Counts(**rows.aggregate(judged=Count("pk", filter=~skip), skipped=Count("pk", filter=skip)))


@dataclass(frozen=True)
class SideSaid:
    """One response as it stood on the card: position A or B, text, and the level and reasons it got there."""

    name: str
    text: str
    level: str
    tags: list[str]


@dataclass(frozen=True)
class Entry:
    """One line of one's own history, in the words of the card."""

    prompt: str
    sides: list[SideSaid]
    answer: str
    strength: str
    other_reasons: list[str]
    comment: str
    contradiction_kept: bool
    saved_at: datetime
    key: UUID | None
    # What it is about, for the page of those who may see more than the card.
    pair: int | None = None
    response: int | None = None


def entry_of(row: Judgement | QualityLabel) -> Entry:
    """The line for a row of `own_judgements` or `own_levels`; asks the database nothing."""
    key = row.assignment.key if row.assignment else None
    if isinstance(row, QualityLabel):
        side = SideSaid("", row.response.text, "", [])
        return Entry(
            row.response.prompt.last_text, [side], row.level or "Skipped", "", [], row.comment, False, row.created_at,
            key, response=row.response_id,
        )  # fmt: skip
    levels = {label.response_id: label.level for label in row.quality_labels.all()}
    responses = {"a": row.pair.response_a, "b": row.pair.response_b}
    order = _order(row.left)
    return Entry(
        prompt=responses[order[0]].prompt.last_text,
        sides=[
            SideSaid(name, responses[side].text, levels.get(responses[side].pk, ""), row.tags_of(side))
            for name, side in zip("AB", order, strict=True)
        ],
        answer=_answer(row.verdict, row.left),
        strength=STRENGTHS.get(row.strength or 0, ""),
        other_reasons=row.other_reasons,
        comment=row.comment,
        contradiction_kept=row.contradiction_kept,
        saved_at=row.created_at,
        key=key,
        pair=row.pair_id,
    )


def _order(left: str) -> tuple[str, str]:
    """The responses as they stood on the card, left first."""
    return ("b", "a") if left == Side.B else ("a", "b")


def _answer(verdict: str, left: str) -> str:
    """A verdict in the words of the card."""
    positions = dict(zip(_order(left), "AB", strict=True))
    words = {Verdict.TIE: "Tie", Verdict.BOTH_BAD: "Both bad", Verdict.SKIP: "Skipped"}
    return words.get(Verdict(verdict)) or f"{positions[verdict]} is better"


def in_words(row: Judgement | QualityLabel, left: str) -> str:
    """An answer in a line, as its card with `left` standing left shows it: "A is better, slightly; A good, B bad"."""
    if isinstance(row, QualityLabel):
        return row.level or "skipped"
    answer = _answer(row.verdict, left)
    parts = [f"{answer}, {STRENGTHS[row.strength]}" if row.strength in STRENGTHS else answer]
    pks = {"a": row.pair.response_a_id, "b": row.pair.response_b_id}
    labels = row.quality_labels.filter(retraction=False).order_by("pk")
    levels = dict(labels.values_list("response_id", "level"))
    named = list(zip("AB", _order(left), strict=True))
    parts.append(", ".join(f"{name} {levels[pks[side]]}" for name, side in named if pks[side] in levels))
    parts += [f"{name}: {', '.join(tags)}" for name, side in named if (tags := row.tags_of(side))]
    parts.append("with a comment" if row.comment else "")
    return "; ".join(part for part in parts if part)
