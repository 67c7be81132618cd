"""What a project's labels add up to: votes of a pair, levels of a response, labels per day, coverage, the queue.

Everything counts current labels only (a correction or an undo has replaced the others). Counts come from the
database in one query each, whatever the number of rows.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any

from django.db.models import Count, F, Q, QuerySet, Sum
from django.db.models.functions import Greatest, TruncDate
from django.utils import timezone

from webapp.corpus.models import Pair, Project, Response
from webapp.labels.models import VERDICTS, Judgement, QualityLabel, Source, Verdict

# --- Votes of a pair ---


@dataclass(frozen=True)
class Votes:
    """Current judgements of one pair, skips left out, in the order of VERDICTS."""

    a: int = 0
    b: int = 0
    tie: int = 0
    both_bad: int = 0

    @property
    def total(self) -> int:
        return self.a + self.tie + self.both_bad + self.b

    @property
    def share(self) -> float | None:
        """Share of the votes for a, 0..1; a tie and "both bad" count half, as in the held-out metrics."""
        return (self.a + (self.tie + self.both_bad) / 2) / self.total if self.total else None

    @property
    def disagreement(self) -> float | None:
        """Chance that two different people of this pair gave different verdicts, 0..1; None below two judgements."""
        n = self.total
        if n < 2:
            return None
        same = sum(count * (count - 1) for count in (self.a, self.tie, self.both_bad, self.b))
        return 1 - same / (n * (n - 1))

    @property
    def weaker(self) -> float | None:
        """Share of the side with fewer votes among the votes for a side, 0..0.5; None below two such votes."""
        sides = self.a + self.b
        return min(self.a, self.b) / sides if sides >= 2 else None

    @property
    def swapped(self) -> "Votes":
        """The same votes seen from response b."""
        return Votes(a=self.b, tie=self.tie, both_bad=self.both_bad, b=self.a)


def vote_counts(pairs: Iterable[int]) -> dict[int, Votes]:
    """Votes by pair id, for the pairs that have any. One query."""
    counts: dict[int, dict[str, int]] = {}
    rows = (
        Judgement.objects.verdicts()
        .filter(pair__in=list(pairs))
        .values_list("pair_id", "verdict")
        .annotate(n=Count("pk"))
        .order_by()
    )
    for pair, verdict, n in rows:
        counts.setdefault(pair, {})[verdict] = n
    return {pair: Votes(**votes) for pair, votes in counts.items()}


def vote_tallies(project: Project) -> dict[int, Votes]:
    """Votes by pair id of all pairs of a project that have any. One query, a narrow row per pair."""
    rows = (
        Judgement.objects.of(project)
        .verdicts()
        .values("pair_id")
        .annotate(**{f"n_{verdict}": Count("pk", filter=Q(verdict=verdict)) for verdict in VERDICTS})
        .order_by()
        .values_list("pair_id", *(f"n_{verdict}" for verdict in VERDICTS))
    )
    return {pair: Votes(*counts) for pair, *counts in rows.iterator(chunk_size=5000)}


# --- Levels of a response ---


@dataclass(frozen=True)
class Levels:
    """Current quality labels of one response."""

    bad: int = 0
    normal: int = 0
    good: int = 0

    @property
    def total(self) -> int:
        return self.bad + self.normal + self.good

    @property
    def counts(self) -> dict[str, int]:
        return {"bad": self.bad, "normal": self.normal, "good": self.good}

    @property
    def shares(self) -> dict[str, float | None]:
        """Share of each level, 0..1; None without labels."""
        return {name: count / self.total if self.total else None for name, count in self.counts.items()}

    @property
    def mean(self) -> float | None:
        """Mean of the levels as bad 0, normal 1, good 2; None without labels."""
        return (self.normal + 2 * self.good) / self.total if self.total else None

    @property
    def variance(self) -> float | None:
        """Variance of the same numbers; None without labels."""
        if self.mean is None:
            return None
        return (self.normal + 4 * self.good) / self.total - self.mean * self.mean


def level_counts(responses: Iterable[int]) -> dict[int, Levels]:
    """Levels by response id, for the responses that have any. One query."""
    counts: dict[int, dict[str, int]] = {}
    rows = (
        QualityLabel.objects.current()
        .filter(response__in=list(responses))
        .values_list("response_id", "level")
        .annotate(n=Count("pk"))
        .order_by()
    )
    for response, level, n in rows:
        counts.setdefault(response, {})[level] = n
    return {response: Levels(**levels) for response, levels in counts.items()}


# --- Who labelled what ---


def labelled_responses(project: Project, annotator: int) -> QuerySet[Any]:
    """Keys of the responses that have a level from an annotator, or stand in a pair that they judged."""
    levels = QualityLabel.objects.of(project).current().filter(annotator=annotator).order_by()
    judged = _verdicts_by(project, annotator).order_by()
    sides = [judged.values(f"pair__response_{side}_id") for side in "ab"]
    return levels.values("response_id").union(*sides, all=True)


def label_counts_by(project: Project) -> Counter[int]:
    """Verdicts and levels by annotator. Two queries."""
    found: Counter[int] = Counter()
    every: list[QuerySet[Any]] = [
        Judgement.objects.of(project).verdicts(),
        QualityLabel.objects.of(project).current(),
    ]
    for labels in every:
        found.update(dict(labels.order_by().values_list("annotator_id").annotate(n=Count("pk"))))
    return found


def judged_pairs(project: Project, annotator: int) -> QuerySet[Any]:
    """Keys of the pairs on which one annotator has given a verdict."""
    return _verdicts_by(project, annotator).values("pair_id")


def _verdicts_by(project: Project, annotator: int) -> QuerySet[Any]:
    """One annotator's current verdicts, a machine's too: whoever asks has named it."""
    said = Judgement.objects.of(project).current_of_all().exclude(verdict=Verdict.SKIP)
    return said.filter(annotator=annotator)


# --- The project ---


@dataclass(frozen=True)
class Day:
    day: date
    judgements: int
    levels: int

    @property
    def total(self) -> int:
        return self.judgements + self.levels


def labels_per_day(project: Project, *, days: int = 30) -> list[Day]:
    """The last `days` days with their current judgements (no skips) and levels, oldest first. Two queries.

    Imported labels are left out: their times are the file's or the import's, and one import of 80,000 votes would
    flatten what people do here.
    """
    today = timezone.localdate()
    first = today - timedelta(days=days - 1)
    start = timezone.make_aware(datetime.combine(first, time.min))
    judgements = _by_day(Judgement.objects.of(project).verdicts(), start)
    levels = _by_day(QualityLabel.objects.of(project).current(), start)
    every = [first + timedelta(days=offset) for offset in range(days)]
    return [Day(day=day, judgements=judgements.get(day, 0), levels=levels.get(day, 0)) for day in every]


def _by_day(labels: QuerySet[Any], start: datetime) -> dict[date, int]:
    rows = (
        labels.filter(created_at__gte=start)
        .exclude(source=Source.IMPORT)
        .annotate(day=TruncDate("created_at"))
        .values_list("day")
        .annotate(n=Count("pk"))
        .order_by()
    )
    return dict(rows)


def newest_labels(project: Project) -> tuple[int, int]:
    """Keys of a project's newest judgement and level, 0 for none. Two queries, no scan.

    Labels are append-only (a correction, an undo and a skip are rows too), so whatever is added up from a project's
    labels stays the same while these two do.
    """
    judgement = Judgement.objects.of(project).order_by("-pk").values_list("pk", flat=True).first()
    level = QualityLabel.objects.of(project).order_by("-pk").values_list("pk", flat=True).first()
    return judgement or 0, level or 0


@dataclass(frozen=True)
class LabelTotals:
    """Current labels of a project; `imported` are those judgements and levels that came in by an import, `api` those
    that another front end sent.
    """

    judgements: int
    skips: int
    levels: int
    imported: int
    simulated: int
    annotators: int
    # Summaries that were stored before it was counted have none.
    api: int = 0


def label_totals(project: Project) -> LabelTotals:
    """How many labels a project has, and from how many people. Three queries."""
    skip = Q(verdict=Verdict.SKIP)
    judgements = Judgement.objects.of(project).current()
    levels = QualityLabel.objects.of(project).current()
    of_pairs = judgements.aggregate(
        judgements=Count("pk", filter=~skip),
        skips=Count("pk", filter=skip),
        imported=Count("pk", filter=~skip & Q(source=Source.IMPORT)),
        simulated=Count("pk", filter=~skip & Q(source=Source.SIMULATED)),
        api=Count("pk", filter=~skip & Q(source=Source.API)),
    )
    of_levels = levels.aggregate(
        levels=Count("pk"),
        imported=Count("pk", filter=Q(source=Source.IMPORT)),
        simulated=Count("pk", filter=Q(source=Source.SIMULATED)),
        api=Count("pk", filter=Q(source=Source.API)),
    )
    people = (
        judgements.order_by().values("annotator_id").union(levels.order_by().values("annotator_id")).count()
    )
    return LabelTotals(
        judgements=of_pairs["judgements"],
        skips=of_pairs["skips"],
        levels=of_levels["levels"],
        imported=of_pairs["imported"] + of_levels["imported"],
        simulated=of_pairs["simulated"] + of_levels["simulated"],
        api=of_pairs["api"] + of_levels["api"],
        annotators=people,
    )


@dataclass(frozen=True)
class Coverage:
    """How far a project's pairs (or lone responses, where the project asks for levels only) are judged."""

    noun: str
    total: int
    started: int
    enough: int

    @property
    def share(self) -> float | None:
        return self.enough / self.total if self.total else None


def coverage(project: Project) -> Coverage:
    """Pairs that have enough judgements, and that have any. One query."""
    rows: QuerySet[Any]
    if project.asks_pairs:
        rows, noun, done = Pair.objects.of(project), "pairs", "judged"
    else:
        rows, noun, done = Response.objects.of(project).filter(wanted__gt=0), "responses", "labelled"
    counts = rows.aggregate(
        total=Count("pk"),
        started=Count("pk", filter=Q(**{f"{done}__gt": 0})),
        enough=Count("pk", filter=Q(**{f"{done}__gte": F("wanted")})),
    )
    return Coverage(noun=noun, **counts)


@dataclass(frozen=True)
class QueueState:
    """Judgements (or labels) still to be handed out, those out at present, and who has been at work lately."""

    open: int
    reserved: int
    active: int


def queue_state(project: Project) -> QueueState:
    """What is left to do. Four queries. `active`: people who labelled in the last hour, imports left out."""
    now = timezone.now()
    rows: QuerySet[Any]
    if project.asks_pairs:
        rows, done = Pair.objects.of(project), "judged"
    else:
        rows, done = Response.objects.of(project), "labelled"
    places = rows.aggregate(left=Sum(Greatest(F("wanted") - F(done) - F("reserved"), 0)))["left"]
    held = project.assignments.open().filter(holds_place=True, reserved_until__gt=now)
    since = now - timedelta(hours=1)
    active = _active(project, Judgement.objects.all(), "pair__project_id", since)
    active |= _active(project, QualityLabel.objects.all(), "response__project_id", since)
    return QueueState(open=places or 0, reserved=held.count(), active=len(active))


def _active(project: Project, labels: QuerySet[Any], project_path: str, since: datetime) -> set[int]:
    """Who labelled since then. The project is compared here: asked for it, SQLite would read all its labels ever."""
    rows = labels.filter(created_at__gte=since).exclude(source__in=[Source.IMPORT, Source.MACHINE]).order_by()
    return {
        person
        for person, owner in rows.values_list("annotator_id", project_path).distinct()
        if owner == project.pk
    }
