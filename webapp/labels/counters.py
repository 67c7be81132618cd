"""The queue's numbers: read without counting, moved in the transaction of each card, counted anew when asked.

What is counted (corpus.counters.QueueCounter): how many pairs are open in each stratum of a project, how many of those
are a person's own (answered or held), and how much that person has answered, skipped and holds. So "open for you" is a
difference of a few rows, whatever the size of the project.

`Ledger` collects what one transaction changes and writes it in one statement, the rows in one order, so that two
people's transactions never wait for each other in a circle. `recount` writes the difference between the numbers and
the rows that they count, both read in one statement: changes that commit meanwhile are neither lost nor counted twice.

Lone responses (projects that ask for levels only) are counted in the same way; `Subject` names what differs.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.db.models import Count, F, Q, QuerySet, Sum

from webapp.accounts.models import User
from webapp.corpus.counters import QueueCounter
from webapp.corpus.models import Pair, Project, Response
from webapp.labels.models import Assignment, Judgement, QualityLabel, Verdict

Name = QueueCounter.Name


@dataclass(frozen=True)
class Subject:
    """What is handed out: the model, the assignment's foreign key to it, and the counter of finished places."""

    model: type[Pair] | type[Response]
    field: str
    done: str

    def rows(self) -> QuerySet[Any]:
        return self.model.objects.all()

    def of(self, project: Project) -> QuerySet[Any]:
        return self.model.objects.of(project)

    def pk_in(self, assignment: Assignment) -> int:
        pk: int = getattr(assignment, f"{self.field}_id")
        return pk

    def wanting(self, project: Project) -> QuerySet[Any]:
        """What wants more judgements, annotated with `taken` (the index of corpus.queued.open_index serves this)."""
        taken = F(self.done) + F("reserved")
        return self.of(project).filter(wanted__gt=taken).annotate(taken=taken)


PAIRS = Subject(Pair, "pair", "judged")
RESPONSES = Subject(Response, "response", "labelled")


def subject_of(project: Project) -> Subject:
    """What this project hands out."""
    return PAIRS if project.asks_pairs else RESPONSES


def answered(subject: Subject) -> list[QuerySet[Any]]:
    """What people have answered, in rows with an annotator; skips count, answers taken back don't."""
    if subject is PAIRS:
        return [Judgement.objects.current()]
    # A skipped lone response has no level; its finished assignment remembers it.
    finished = Assignment.objects.filter(state=Assignment.State.DONE, response__isnull=False)
    return [QualityLabel.objects.current(), finished]


def own(subject: Subject) -> list[QuerySet[Any]]:
    """What can't be given to their annotator (again): what they have answered, and what they hold."""
    held = Assignment.objects.open().filter(**{f"{subject.field}__isnull": False})
    return [*answered(subject), held]


class Stratum(NamedTuple):
    """Open pairs with equally many places taken and equal priority; the greater stratum is handed out first."""

    taken: int
    priority: int


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


def _read(project: Project, annotator: User) -> tuple[Standing, bool]:
    rows = QueueCounter.objects.filter(
        Q(name=Name.OPEN) | Q(person__in=[0, annotator.pk]), project=project
    ).order_by()
    sums = {
        (name, Stratum(taken, priority)): value
        for name, taken, priority, value in rows.values_list("name", "taken", "priority").annotate(
            sum=Sum("value")
        )
    }
    none = Stratum(0, 0)
    free = {
        place: size
        for (name, place), value in sorted(sums.items(), reverse=True)
        if name == Name.OPEN and (size := value - sums.get((Name.MINE, place), 0)) > 0
    }
    judged, skipped, held = (sums.get((name, none), 0) for name in (Name.JUDGED, Name.SKIPPED, Name.HELD))
    changed, counted = sums.get((Name.CHANGED, none)), sums.get((Name.COUNTED, none))
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
            people = [rows.filter(**{self.subject.field: pk}) for rows in own(self.subject)]
            for at, change in ((before, -1), (after, 1)):
                if at is not None:
                    # Whoever else has answered or holds it finds one of their own in another stratum.
                    changes.people(people, self.person, at, change)
        self.changes, self.moves = {}, []
        changes.write(self.project.pk)


_NOWHERE = Stratum(0, 0)


class _Select:
    """SQL that gives rows of (person, name, taken, priority, change), and writes them in one order."""

    def __init__(self) -> None:
        self.selects: list[str] = []
        self.parameters: list[Any] = []

    def row(self, person: int, name: str, place: Stratum, change: int) -> None:
        self.selects.append("SELECT %s AS person, %s AS name, %s AS taken, %s AS priority, %s AS change")
        self.parameters += [person, name, *place, change]

    def people(self, rows: list[QuerySet[Any]], but: int, place: Stratum, change: int) -> None:
        sql, parameters = _sql(_union(rows, "annotator_id"))
        self.selects.append(
            "SELECT annotator_id AS person, %s AS name, %s AS taken, %s AS priority, %s AS change "
            f"FROM ({sql}) people WHERE annotator_id <> %s"
        )
        self.parameters += [Name.MINE, *place, change, *parameters, but]

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


def _union(rows: list[QuerySet[Any]], *columns: str) -> QuerySet[Any]:
    first, *others = (part.order_by().values(*columns) for part in rows)
    return first.union(*others)


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

    project_path = f"{subject.field}__project"
    mine, mine_parameters = _sql(
        _union([rows.filter(**{project_path: project}) for rows in own(subject)], "annotator_id", column)
    )
    sql, parameters = _sql(wanting.values("id", "taken", "priority"))
    select.rows(
        "annotator_id AS person, 'mine' AS name, taken, priority, COUNT(*) AS change",
        sql,
        [*parameters, *mine_parameters],
        f"JOIN ({mine}) mine ON mine.{column} = counted.id GROUP BY annotator_id, taken, priority",
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
            changes = _Select()
            for each in found:
                changes.row(each.person, each.name, each.place, each.missing)
            changes.write(project.pk)
            return found
