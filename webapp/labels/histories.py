"""What one annotator has said so far: reads for his own pages."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Prefetch, QuerySet

from webapp.accounts.models import User
from webapp.corpus.models import Project
from webapp.labels.models import Judgement, QualityLabel, Side, Verdict

STRENGTHS = {1: "slightly", 2: "clearly", 3: "much"}


def own_judgements(*, project: Project, annotator: User) -> QuerySet[Judgement]:
    """His current judgements (skips too), newest first, with pairs, texts and levels: two queries for a page."""
    rows = Judgement.objects.current().filter(annotator=annotator, pair__project=project)
    rows = rows.select_related("assignment", "pair__response_a__prompt", "pair__response_b__prompt")
    levels = QualityLabel.objects.filter(retraction=False).order_by("pk")
    return rows.prefetch_related(Prefetch("quality_labels", queryset=levels)).order_by("-created_at", "-pk")


def own_skips(*, project: Project, annotator: User) -> int:
    """How many of his current judgements are skips."""
    return Judgement.objects.current().filter(
        annotator=annotator, pair__project=project, verdict=Verdict.SKIP
    ).count()  # fmt: skip


def own_levels(*, project: Project, annotator: User) -> QuerySet[QualityLabel]:
    """His current levels, newest first, with responses and prompts."""
    rows = QualityLabel.objects.current().filter(annotator=annotator, response__project=project)
    return rows.select_related("assignment", "response__prompt").order_by("-created_at", "-pk")


def judged_count(*, project: Project, annotator: User) -> int:
    """How many cards of this project he has answered, skips not counted."""
    if project.asks_pairs:
        return Judgement.objects.verdicts().filter(annotator=annotator, pair__project=project).count()
    return QualityLabel.objects.current().filter(annotator=annotator, response__project=project).count()


@dataclass(frozen=True)
class SideSaid:
    """One response as it stood on the card: its position A or B, its text, the level it got with this answer."""

    name: str
    text: str
    level: str


@dataclass(frozen=True)
class Entry:
    """One line of one's own history, in the words of the card."""

    prompt: str
    sides: list[SideSaid]
    answer: str
    strength: str
    comment: str
    saved_at: datetime
    key: UUID | None
    # What it is about, for the page of those who may see more than the card.
    pair: int | None = None
    response: int | None = None


def entry_of(row: Judgement | QualityLabel) -> Entry:
    """The line for a row of `own_judgements` or `own_levels`; asks the database nothing."""
    key = row.assignment.key if row.assignment else None
    if isinstance(row, QualityLabel):
        side = SideSaid("", row.response.text, "")
        return Entry(
            row.response.prompt.last_text, [side], row.level, "", row.comment, row.created_at, key,
            response=row.response_id,
        )  # fmt: skip
    levels = {label.response_id: label.level for label in row.quality_labels.all()}
    responses = [row.pair.response_a, row.pair.response_b]
    if row.left == Side.B:
        responses.reverse()
    sides = [
        SideSaid(name, response.text, levels.get(response.pk, ""))
        for name, response in zip("AB", responses, strict=True)
    ]
    first, second = ("B", "A") if row.left == Side.B else ("A", "B")
    answers = {
        Verdict.A: f"{first} is better",
        Verdict.B: f"{second} is better",
        Verdict.TIE: "Tie",
        Verdict.BOTH_BAD: "Both bad",
        Verdict.SKIP: "Skipped",
    }
    return Entry(
        prompt=responses[0].prompt.last_text,
        sides=sides,
        answer=answers[Verdict(row.verdict)],
        strength=STRENGTHS.get(row.strength or 0, ""),
        comment=row.comment,
        saved_at=row.created_at,
        key=key,
        pair=row.pair_id,
    )
