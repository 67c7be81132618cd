"""The queue's numbers: read without counting, moved in the transaction of each card, counted anew when asked.

What is counted (corpus.counters.QueueCounter): how many pairs are open in each stratum of a project, how many of those
are a person's own (answered or held), and how much that person has answered, skipped and holds. So "open for you" is a
difference of a few rows, whatever the size of the project.

`Ledger` collects what one transaction changes and writes it in one statement, the rows in one order, so that two
people's transactions never wait for each other in a circle. `recount` writes the difference between the numbers and
the rows that they count, both read in one statement: changes that commit meanwhile are neither lost nor counted twice.

Lone responses (projects that ask for levels only) are counted in the same way; `Subject` names what differs.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.db.models import Count, F, Q, QuerySet, Sum, TextField
from django.db.models.expressions import RawSQL

from webapp.accounts.models import User
from webapp.corpus.counters import QueueCounter
from webapp.corpus.models import Pair, Project, Response
from webapp.labels.models import Assignment, Judgement, QualityLabel, Verdict

Name = QueueCounter.Name


@dataclass(frozen=True)
class Subject:
    """What is handed out: the model, the assignment's foreign key to it, and the counter of finished places.

    `own` tells in SQL what can't be given to its annotator (again): rows `o` of what they have answered (a skip
    counts, an answer taken back does not), and of what they hold.
    """

    model: type[Pair] | type[Response]
    field: str
    done: str
    own: tuple[str, ...]

    def rows(self) -> QuerySet[Any]:
        return self.model.objects.all()

    def of(self, project: Project) -> QuerySet[Any]:
        return self.model.objects.of(project)

    def pk_in(self, assignment: Assignment) -> int:
        pk: int = getattr(assignment, f"{self.field}_id")
        return pk

    @property
    def table(self) -> str:
        return self.model._meta.db_table

    def wanting(self, project: Project) -> QuerySet[Any]:
        """What wants more judgements, annotated with `taken` (the index of corpus.queued.open_index serves this)."""
        taken = F(self.done) + F("reserved")
        return self.of(project).filter(wanted__gt=taken).annotate(taken=taken)

    @property
    def not_own(self) -> str:
        """Condition on rows `q` of this subject, with the annotator's key once for each of `own`."""
        return " AND ".join(
            f"NOT EXISTS (SELECT 1 FROM {part} AND o.{self.field}_id = q.id AND o.annotator_id = %s)"
            for part in self.own
        )

    def people(self, *, of_all: bool = False) -> str:
        """Whose own one row is (its key once for each of `own`), or with the key of each row, whose own all are."""
        key = f"o.{self.field}_id"
        columns, which = (f", {key}", f"{key} IS NOT NULL") if of_all else ("", f"{key} = %s")
        # Machines, and names that came with an import, are never given anything; their rows would be written by
        # everybody at once.
        person = (
            "EXISTS (SELECT 1 FROM accounts_user u WHERE u.id = o.annotator_id"
            " AND u.kind NOT IN ('imported', 'machine'))"
        )
        return " UNION ".join(
            f"SELECT o.annotator_id{columns} FROM {part} AND {which} AND {person}" for part in self.own
        )


# The ORM takes several times as long to write these conditions as a database to run them, and every card needs them.
PAIRS = Subject(
    Pair,
    "pair",
    "judged",
    (
        "labels_judgement o WHERE o.is_current AND NOT o.retraction",
        "labels_assignment o WHERE o.state = 'open'",
    ),
)
RESPONSES = Subject(
    Response,
    "response",
    "labelled",
    (
        "labels_qualitylabel o WHERE o.is_current AND NOT o.retraction",
        # A skipped lone response has no level; its finished assignment remembers it.
        "labels_assignment o WHERE o.state IN ('open', 'done')",
    ),
)


def subject_of(project: Project) -> Subject:
    """What this project hands out."""
    return PAIRS if project.asks_pairs else RESPONSES


class Stratum(NamedTuple):
    """Open pairs with equally many places taken and equal priority; the greater stratum is handed out first."""

    taken: int
    priority: int


# Of the numbers that are of no stratum.
_NOWHERE = Stratum(0, 0)


def stratum(taken: int, wanted: int, priority: int) -> Stratum | None:
    """Where a pair with these counters stands; None if it wants nothing more."""
    return Stratum(taken, priority) if wanted > taken else None


@dataclass
class Standing:
    """One annotator's numbers in one project. `free`: what they could be given, by stratum, the first one first."""

    judged: int
    skipped: int
    held: int
    free: dict[Stratum, int]

    @property
    def open(self) -> int:
        """How many cards are open for this annotator now: those they hold and what they could still be given."""
        return self.held + sum(self.free.values())


def standing(*, project: Project, annotator: User) -> Standing:
    """Read the numbers, in one query; the first time, and after a change in bulk, they are counted anew."""
    while True:
        found, fresh = _read(project, annotator)
        if fresh:
            return found
        recount(project)


def with_numbers(cards: QuerySet[Any]) -> QuerySet[Any]:
    """The cards with the numbers of their annotators, for `standing_of`: a save needs both, and asks once."""
    several, one = ("json_agg", "json_build_array")
    if connection.vendor == "sqlite":
        several, one = ("json_group_array", "json_array")
    numbers = (
        f"(SELECT CAST({several}({one}(n.name, n.taken, n.priority, n.value)) AS text) FROM ("
        "SELECT name, taken, priority, SUM(value) AS value FROM corpus_queuecounter"
        " WHERE project_id = labels_assignment.project_id"
        " AND (name = 'open' OR person IN (0, labels_assignment.annotator_id))"
        " GROUP BY name, taken, priority) n)"
    )
    return cards.annotate(numbers=RawSQL(numbers, (), output_field=TextField()))


def standing_of(card: Assignment) -> Standing | None:
    """The numbers of the card's annotator as they were read with it; None if they have to be counted anew.

    That is not done in the transaction of a card: what it has changed already would be counted twice.
    """
    if card.numbers is None:
        return None
    found, fresh = _standing(
        (name, Stratum(*place), value) for name, *place, value in json.loads(card.numbers)
    )
    return found if fresh else None


def _read(project: Project, annotator: User) -> tuple[Standing, bool]:
    rows = QueueCounter.objects.filter(
        Q(name=Name.OPEN) | Q(person__in=[0, annotator.pk]), project=project
    ).order_by()
    sums = rows.values_list("name", "taken", "priority").annotate(sum=Sum("value"))
    return _standing((name, Stratum(taken, priority), value) for name, taken, priority, value in sums)


def _standing(rows: Iterable[tuple[str, Stratum, int]]) -> tuple[Standing, bool]:
    sums = {(name, place): value for name, place, value in rows}
    free = {
        place: size
        for (name, place), value in sorted(sums.items(), reverse=True)
        if name == Name.OPEN and (size := value - sums.get((Name.MINE, place), 0)) > 0
    }
    judged, skipped, held = (sums.get((name, _NOWHERE), 0) for name in (Name.JUDGED, Name.SKIPPED, Name.HELD))
    changed, counted = sums.get((Name.CHANGED, _NOWHERE)), sums.get((Name.COUNTED, _NOWHERE))
    return Standing(judged, skipped, held, free), changed is not None and changed == counted


@dataclass
class Ledger:
    """What one transaction changes in the numbers of a project, by the cards of one person."""

    project: Project
    person: int
    changes: dict[tuple[int, str, Stratum], int] = field(default_factory=dict)
    moves: list[tuple[int, Stratum | None, Stratum | None]] = field(default_factory=list)

    @property
    def subject(self) -> Subject:
        return subject_of(self.project)

    def add(self, subject: Subject, **changes: int) -> None:
        """Add to this person's `judged`, `skipped` or `held`."""
        for name, change in changes.items():
            self._add(subject, Name(name), _NOWHERE, change)

    def _add(self, subject: Subject, name: str, place: Stratum | None, change: int) -> None:
        # A card of what the project no longer asks for is counted nowhere.
        if place is not None and subject is self.subject:
            key = (self.person, name, place)
            self.changes[key] = self.changes.get(key, 0) + change

    def move(
        self,
        subject: Subject,
        pk: int,
        before: Stratum | None,
        after: Stratum | None,
        *,
        was_own: bool = True,
        is_own: bool = True,
    ) -> None:
        """A pair goes from one stratum to another; it may become this person's own, or be theirs no more."""
        self._add(subject, Name.OPEN, before, -1)
        self._add(subject, Name.OPEN, after, 1)
        self._add(subject, Name.MINE, before, -int(was_own))
        self._add(subject, Name.MINE, after, int(is_own))
        if before != after and subject is self.subject:
            self.moves.append((pk, before, after))

    def settle(self, numbers: Standing) -> None:
        """Put this person's changes so far into their numbers, which were read without them."""
        for (_, name, place), change in self.changes.items():
            if name in (Name.OPEN, Name.MINE):
                numbers.free[place] = numbers.free.get(place, 0) + (change if name == Name.OPEN else -change)
            else:
                setattr(numbers, name, getattr(numbers, name) + change)

    def write(self) -> None:
        """Write it all in one statement, the last of a transaction: so nobody waits long for these rows."""
        changes = _Select()
        for (person, name, place), change in self.changes.items():
            if change:
                changes.row(person, name, place, change)
        for pk, before, after in self.moves:
            for at, change in ((before, -1), (after, 1)):
                if at is not None:
                    # Whoever else has answered or holds it finds one of their own in another stratum.
                    changes.people(self.subject, pk, self.person, at, change)
        self.changes, self.moves = {}, []
        changes.write(self.project.pk)


_ROWS = 200


class _Select:
    """SQL that gives rows of (person, name, taken, priority, change), and writes them in one order."""

    def __init__(self) -> None:
        self.selects: list[str] = []
        self.parameters: list[Any] = []

    def row(self, person: int, name: str, place: Stratum, change: int) -> None:
        self.selects.append("SELECT %s AS person, %s AS name, %s AS taken, %s AS priority, %s AS change")
        self.parameters += [person, name, *place, change]

    def people(self, subject: Subject, pk: int, but: int, place: Stratum, change: int) -> None:
        self.selects.append(
            "SELECT annotator_id AS person, %s AS name, %s AS taken, %s AS priority, %s AS change "
            f"FROM ({subject.people()}) people WHERE annotator_id <> %s"
        )
        self.parameters += [Name.MINE, *place, change, *[pk] * len(subject.own), but]

    def rows(self, columns: str, sql: str, parameters: Iterable[Any], rest: str = "") -> None:
        self.selects.append(f"SELECT {columns} FROM ({sql}) counted {rest}")
        self.parameters += parameters

    @property
    def sums(self) -> str:
        union = " UNION ALL ".join(self.selects)
        return (
            f"SELECT person, name, taken, priority, SUM(change) FROM ({union}) changes "
            "GROUP BY person, name, taken, priority HAVING SUM(change) <> 0 ORDER BY person, name, taken, priority"
        )

    def write(self, project_pk: int) -> None:
        if not self.selects:
            return
        table = connection.ops.quote_name(QueueCounter._meta.db_table)
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {table} (project_id, person, name, taken, priority, value) "
                f"SELECT %s, sums.* FROM ({self.sums}) sums WHERE true "
                "ON CONFLICT (project_id, name, person, taken, priority) "
                f"DO UPDATE SET value = {table}.value + excluded.value",
                [project_pk, *self.parameters],
            )


def _sql(rows: QuerySet[Any]) -> tuple[str, tuple[Any, ...]]:
    sql, parameters = rows.query.get_compiler(connection=connection).as_sql()
    return sql, tuple(parameters)


@dataclass(frozen=True)
class Drift:
    """One number that is not what its rows come to."""

    person: int
    name: str
    place: Stratum
    missing: int


def drift(project: Project) -> list[Drift]:
    """By how much the numbers differ from the rows that they count, both as one statement reads them."""
    select = _difference(project)
    with connection.cursor() as cursor:
        cursor.execute(select.sums, select.parameters)
        return [
            Drift(person, name, Stratum(taken, priority), int(missing))
            for person, name, taken, priority, missing in cursor.fetchall()
        ]


def _difference(project: Project) -> _Select:
    """The true numbers less those that are written."""
    subject, select = subject_of(project), _Select()
    column = f"{subject.field}_id"
    wanting = subject.wanting(project).order_by()
    sql, parameters = _sql(wanting.values("taken", "priority").annotate(size=Count("pk")))
    select.rows("0 AS person, 'open' AS name, taken, priority, size AS change", sql, parameters)

    sql, parameters = _sql(wanting.values("id", "taken", "priority"))
    select.rows(
        "annotator_id AS person, 'mine' AS name, taken, priority, COUNT(*) AS change",
        sql,
        parameters,
        f"JOIN ({subject.people(of_all=True)}) own ON own.{column} = counted.id GROUP BY annotator_id, taken, priority",
    )

    said: QuerySet[Any]
    if subject is PAIRS:
        said, is_skip = Judgement.objects.of(project).current(), Q(verdict=Verdict.SKIP)
    else:
        said, is_skip = QualityLabel.objects.of(project).answers(), Q(level="")
    held = Assignment.objects.open().filter(project=project, **{f"{column}__isnull": False})
    for name, rows in (("judged", said.exclude(is_skip)), ("skipped", said.filter(is_skip)), ("held", held)):
        sql, parameters = _sql(rows.order_by().values("annotator_id").annotate(size=Count("pk")))
        select.rows(
            f"annotator_id AS person, '{name}' AS name, 0 AS taken, 0 AS priority, size AS change",
            sql,
            parameters,
        )

    written = QueueCounter.objects.filter(project=project).exclude(name__in=[Name.CHANGED, Name.COUNTED])
    sql, parameters = _sql(written.order_by().values("person", "name", "taken", "priority", "value"))
    select.rows(
        "CASE WHEN name = 'open' THEN 0 ELSE person END AS person, name, taken, priority, -value AS change",
        sql,
        parameters,
    )
    return select


def recount(project: Project) -> list[Drift]:
    """Make the numbers what their rows come to; returns what was missing.

    It takes no lock while it counts. If somebody else has counted, or changed much at once, in the meantime, it counts
    again. Cards that are saved meanwhile add their own changes, before or after.
    """
    marks = QueueCounter.objects.filter(project=project, person=0)
    while True:
        mark, _ = QueueCounter.objects.get_or_create(
            project=project, name=Name.CHANGED, person=0, taken=0, priority=0, defaults={"value": 1}
        )
        found = drift(project)
        with transaction.atomic():
            if not marks.filter(name=Name.CHANGED, value=mark.value).update(value=mark.value + 1):
                continue
            QueueCounter.objects.update_or_create(
                project=project,
                name=Name.COUNTED,
                person=0,
                taken=0,
                priority=0,
                defaults={"value": mark.value + 1},
            )
            # A project may have thousands of people, a statement some hundred parts.
            for start in range(0, len(found), _ROWS):
                changes = _Select()
                for each in found[start : start + _ROWS]:
                    changes.row(each.person, each.name, each.place, each.missing)
                changes.write(project.pk)
            return found
