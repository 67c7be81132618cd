"""What lists are sorted and narrowed by: one row per pair and per response with what its labels add up to, and what
a search finds it by.

Triggers in the database note each pair and response that is added or whose labels change, in the transaction that
changes them (`Uncounted`). Whoever opens a list counts what is noted, if it is little; the worker's tick counts the
rest. Counting always starts from the labels themselves, so a row cannot drift: it is right, or it is noted.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

import numpy as np
from django.db import DatabaseError, connection, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from webapp.corpus.models import Pair, Project, Response
from webapp.labels.summaries import Levels, Votes, level_counts, vote_counts
from webapp.locks import short_waits
from webapp.ratings.models import (
    NOTHING,
    PairGap,
    PairTally,
    Prediction,
    Rank,
    ResponseGap,
    ResponseTally,
    TallyState,
    Uncounted,
    VersionTally,
)
from webapp.ratings.queries import joint_of, outcome_from
from webapp.ratings.searching import texts_keep
from webapp.training.models import ModelVersion

# What a page counts itself: a tenth of a second at most.
AT_ONCE = 2000
# How long one tick goes on, so that its other parts are not late.
TICK_SECONDS = 5.0

_TABLES = (
    # table, its column, the column of ratings_uncounted, and what is noted.
    ("labels_judgement", "pair_id", "pair", ("INSERT", "UPDATE", "DELETE")),
    ("labels_qualitylabel", "response_id", "response", ("INSERT", "UPDATE", "DELETE")),
    ("corpus_pair", "id", "pair", ("INSERT",)),
    ("corpus_response", "id", "response", ("INSERT",)),
)


@dataclass(frozen=True)
class Freshness:
    """How new a project's tallies are: `waiting` pairs and responses are noted and not counted yet.

    comparing: the version in sight is still being compared with people.
    """

    waiting: int = 0
    counted_at: datetime | None = None
    comparing: bool = False


def catch_up(project: Project) -> Freshness:
    """Count what is noted of a project, if that is little and nobody else is at it. One query where nothing is noted.

    Never waits for long: an import on SQLite holds the database's one lock.
    """
    noted = _noted(project)
    waiting = noted[: AT_ONCE + 1].count()
    if 0 < waiting <= AT_ONCE:
        try:
            with short_waits(300), transaction.atomic():
                _count(project, noted)
            return Freshness()
        except DatabaseError:
            pass
    if not waiting:
        return Freshness()
    state = TallyState.objects.filter(project=project).first()
    return Freshness(noted.count(), state.counted_at if state else None)


def count_noted() -> int:
    """Count what is noted, of all projects, for some seconds; how many notes. The worker's part."""
    until, done = time.monotonic() + TICK_SECONDS, 0
    for project in Project.objects.order_by("pk"):
        while time.monotonic() < until:
            with transaction.atomic():
                counted = _count(project, _noted(project))
            done += counted
            if not counted:
                break
    return done + _forget_gone()


def _noted(project: Project) -> QuerySet[Uncounted]:
    of_pair = Pair.objects.of(project).filter(pk=OuterRef("pair"))
    of_response = Response.objects.of(project).filter(pk=OuterRef("response"))
    return Uncounted.objects.filter(Exists(of_pair) | Exists(of_response))


def _forget_gone() -> int:
    """Notes of what has been deleted since."""
    gone = (
        ~Exists(Pair.objects.filter(pk=OuterRef("pair"))),
        ~Exists(Response.objects.filter(pk=OuterRef("response"))),
    )
    return Uncounted.objects.filter(*gone).delete()[0]


def _count(project: Project, noted: QuerySet[Uncounted]) -> int:
    """Count AT_ONCE notes at most; how many. One counts at a time: of two, the slower would write older numbers."""
    TallyState.objects.get_or_create(project=project)
    state = TallyState.objects.select_for_update().get(project=project)
    notes = list(noted.order_by("pk")[:AT_ONCE].values_list("pk", "pair", "response"))
    if not notes:
        return 0
    # First the notes go, then the labels are read: a label that comes between the two has its own note.
    Uncounted.objects.filter(pk__in=[pk for pk, _, _ in notes]).delete()
    pairs = list(
        Pair.objects.of(project)
        .filter(pk__in={pair for _, pair, _ in notes if pair})
        .values_list("pk", "response_a_id", "response_b_id")
    )
    pairs_count(project, [pk for pk, _, _ in pairs])
    sides = chain.from_iterable((a, b) for _, a, b in pairs)
    responses = responses_count(project, {*sides, *(response for _, _, response in notes if response)})
    texts_keep(responses, [pk for pk, _, _ in pairs])
    for compared in VersionTally.objects.filter(version__project=project).select_related("version"):
        pair_gaps(compared.version, pairs)
        response_gaps(compared.version, responses)
    state.counted_at = timezone.now()
    state.save()
    return len(notes)


def pairs_count(project: Project, pairs: Iterable[int]) -> None:
    """Count the votes of pairs and keep them. Two queries."""
    pks = list(pairs)
    votes = vote_counts(pks)
    nobody = Votes()

    def known(value: float | None) -> float:
        return NOTHING if value is None else value

    rows = []
    for pk in pks:
        said = votes.get(pk, nobody)
        rows.append(
            PairTally(
                pair_id=pk, project=project, total=said.total, share=known(said.share),
                disagreement=known(said.disagreement), weaker=known(said.weaker),
            )
        )  # fmt: skip
    _keep(PairTally, ["pair"], rows)


def responses_count(project: Project, responses: Iterable[int]) -> list[int]:
    """Count the levels of responses, and whether a judged pair has them, and keep both; those that are there."""
    pks = list(Response.objects.of(project).filter(pk__in=set(responses)).values_list("pk", flat=True))
    levels = level_counts(pks)
    judged = Pair.objects.filter(judged__gt=0).order_by()
    in_pairs = {
        *judged.filter(response_a__in=pks).values_list("response_a_id", flat=True),
        *judged.filter(response_b__in=pks).values_list("response_b_id", flat=True),
    }
    nobody = Levels()
    rows = []
    for pk in pks:
        said = levels.get(pk, nobody)
        rows.append(
            ResponseTally(
                response_id=pk, project=project, bad=said.bad, normal=said.normal, good=said.good, total=said.total,
                mean=NOTHING if said.mean is None else said.mean,
                variance=NOTHING if said.variance is None else said.variance,
                labelled=bool(said.total) or pk in in_pairs,
            )
        )  # fmt: skip
    _keep(ResponseTally, ["response"], rows)
    return pks


def _keep(model: Any, keys: list[str], rows: list[Any]) -> None:
    if not rows:
        return
    changing = [
        field.name for field in model._meta.fields if not field.primary_key and field.name not in keys
    ]
    model.objects.bulk_create(rows, update_conflicts=True, unique_fields=keys, update_fields=changing)


# --- A version beside people ---


def versions_compare(project: Project, version: ModelVersion) -> bool:
    """Whether the version is compared with people on all of its predictions. Compares it now where there are few.

    Else it is noted, and the worker does it at its next tick.
    """
    rated = version.predictions.count()
    found, _ = VersionTally.objects.get_or_create(version=version)
    if _is_current(found, project, rated):
        return True
    if rated > AT_ONCE or Pair.objects.of(project)[: AT_ONCE + 1].count() > AT_ONCE:
        VersionTally.objects.filter(pk=version.pk).update(rated=0, asked_at=timezone.now())
        return False
    _compare(project, version, rated)
    return True


def compare_noted() -> int:
    """Compare serving versions, and those that somebody asked for, with people; how many. The worker's part."""
    done = 0
    for version in ModelVersion.objects.filter(Q(is_serving=True) | Q(tally__isnull=False)):
        found, _ = VersionTally.objects.get_or_create(version=version)
        rated = version.predictions.count()
        if rated and not _is_current(found, version.project, rated):
            _compare(version.project, version, rated)
            done += 1
    return done


def _is_current(found: VersionTally, project: Project, rated: int) -> bool:
    return (found.rated, found.bad_to, found.normal_to) == (rated, project.bad_to, project.normal_to)


def _compare(project: Project, version: ModelVersion, rated: int) -> None:
    """All pairs and responses that are counted, AT_ONCE at a time, each while nobody counts."""
    pairs = Pair.objects.of(project).order_by("pk").values_list("pk", "response_a_id", "response_b_id")
    responses = Response.objects.of(project).order_by("pk").values_list("pk", flat=True)
    TallyState.objects.get_or_create(project=project)
    parts: list[tuple[list[Any], Any]] = [(list(pairs), pair_gaps), (list(responses), response_gaps)]
    for rows, keep in parts:
        for at in range(0, len(rows), AT_ONCE):
            with transaction.atomic():
                TallyState.objects.select_for_update().get(project=project)
                keep(version, rows[at : at + AT_ONCE])
    VersionTally.objects.filter(version=version).update(
        rated=rated, bad_to=project.bad_to, normal_to=project.normal_to
    )


def pair_gaps(version: ModelVersion, pairs: Sequence[tuple[int, int, int]]) -> None:
    """Keep what a version says of pairs (pk, response a, response b) beside the votes counted. Three queries, four of
    a version that votes.
    """
    tallies = PairTally.objects.in_bulk([pk for pk, _, _ in pairs])
    sides = set(chain.from_iterable((a, b) for _, a, b in pairs))
    found = version.predictions.filter(response__in=sides).values_list("response_id", "score", "p", "split")
    said = {response: (score, p, split == Prediction.Split.TRAIN) for response, score, p, split in found}
    joint = joint_of(version, [pk for pk, _, _ in pairs])
    rows = []
    for pk, a, b in pairs:
        if (tally := tallies.get(pk)) is None:
            continue
        row = PairGap(
            version=version,
            pair_id=pk,
            rank=Rank.NOTHING,
            gap=NOTHING,
            agrees=0,
            total=tally.total,
            seen=False,
        )
        if tally.total and a in said and b in said:
            preferred = outcome_from(version, said[a][:2], said[b][:2], joint.get(pk)).preferred
            row.seen = said[a][2] or said[b][2]
            row.rank = Rank.UNFAIR if row.seen or tally.total < 2 else Rank.FAIR
            row.gap = abs(tally.share - preferred)
            row.agrees = int(np.sign((tally.share - 0.5) * (preferred - 0.5)))
        rows.append(row)
    _keep(PairGap, ["version", "pair"], rows)


def response_gaps(version: ModelVersion, responses: Sequence[int]) -> None:
    """Keep how far a version's expected level (bad 0, normal 1, good 2) is from the people's mean one. Three queries.

    Nothing for a version that predicts no levels: a scalar one, or one that saw none.
    """
    if version.kind == "scalar" or not version.saw_levels:
        return
    bad, normal = version.project.bad_to, version.project.normal_to
    means = dict(ResponseTally.objects.filter(pk__in=responses).values_list("pk", "mean"))
    found = version.predictions.filter(response__in=responses).values_list("response_id", "p", "split")
    said = {response: (p, split) for response, p, split in found if p}
    rows = []
    for pk, mean in means.items():
        row = ResponseGap(version=version, response_id=pk, rank=Rank.NOTHING, gap=NOTHING)
        if pk in said and mean != NOTHING:
            p, split = said[pk]
            row.rank = Rank.UNFAIR if split == Prediction.Split.TRAIN else Rank.FAIR
            row.gap = abs(sum(p[bad:normal]) + 2 * sum(p[normal:]) - mean)
        rows.append(row)
    _keep(ResponseGap, ["version", "response"], rows)


# --- Triggers ---


def triggers_install(**_: Any) -> None:
    """Make the triggers that are not there. Called after each migration: SQLite's remake tables, and lose them."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT tgname FROM pg_trigger WHERE tgname LIKE 'caliper_%%'")
        else:
            cursor.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        there = {name for (name,) in cursor.fetchall()}
        for table, column, noted, changes in _TABLES:
            for change in changes:
                name = f"caliper_{table}_{change}".lower()
                if name in there:
                    continue
                make = _postgresql if connection.vendor == "postgresql" else _sqlite
                for statement in make(name, table, column, noted, change):
                    cursor.execute(statement)


def _sqlite(name: str, table: str, column: str, noted: str, change: str) -> list[str]:
    row = "OLD" if change == "DELETE" else "NEW"
    note = f"INSERT INTO ratings_uncounted ({noted}) VALUES ({row}.{column})"  # noqa: S608 - names of ours
    return [f"CREATE TRIGGER {name} AFTER {change} ON {table} BEGIN {note}; END"]


def _postgresql(name: str, table: str, column: str, noted: str, change: str) -> list[str]:
    """Once a statement, so that a COPY of a million rows is one insert here."""
    rows = "OLD" if change == "DELETE" else "NEW"
    note = f"INSERT INTO ratings_uncounted ({noted}) SELECT DISTINCT {column} FROM changed"  # noqa: S608
    return [
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN {note}; RETURN NULL; END $$",
        f"CREATE TRIGGER {name} AFTER {change} ON {table} REFERENCING {rows} TABLE AS changed "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {name}()",
    ]
