"""Writing imported prompts, responses and pairs, and the report of an import.

An import goes in two steps. `spool_records` reads the files once and lays the records down by kind, so that a file
may name things in any order. `CorpusWriter` then goes through the kinds (prompts, responses, pairs), finds out what
is new, what is there already and what contradicts, and writes the new rows. A dry run does all but the writing: new
rows get negative stand-ins for primary keys. `importing.services` orders the steps and does the same with labels.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from django.db.models import Model, QuerySet
from django.utils import timezone

from webapp.corpus.models import Import, Pair, Project, Prompt, Response, messages_digest, text_digest
from webapp.corpus.pairing import pairs_to_make
from webapp.importing import fields, shapes
from webapp.importing.reading import ImportRefused, Problem, Row, Source, printable, read_as
from webapp.importing.shapes import LevelRecord, PairRecord, PromptRecord, Record, ResponseRecord, VoteRecord

# Rows looked up and written at a time: below SQLite's limit of variables in one statement.
CHUNK = 500
SHOWN_ERRORS = 50
# With more rows left out than this the file is not what it is taken for; the import is refused.
MAX_LEFT_OUT = 10_000
MAX_ERRORS_BYTES = 4 * 1024 * 1024
MAX_KIND = 80
# What an import itself writes into its folder, beside the files.
ERRORS = "errors.jsonl"
PROGRESS = "progress.json"
PREVIEW_FILE = "preview.json"
SURVEY_FILE = "survey.json"
OWN_FILES = {ERRORS, PROGRESS, PREVIEW_FILE, SURVEY_FILE}
PREVIEW = 5

OnProgress = Callable[[str, int, int], None]
Parser = Callable[[Row], list[Record]]


class Where(NamedTuple):
    """The place of a record: the file (its place among the sources) and the row."""

    file: int
    row: int


@dataclass
class Report:
    """What an import found and did. `counts[kind]` has found, new, present (and changed, for labels)."""

    format: str = ""
    dry_run: bool = True
    files: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    rows: int = 0
    left_out: int = 0
    # Columns that the format did not use, and what was done to texts on the way (see shapes.tracking), by rows.
    unused: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    # Rows whose prompt had come with an earlier row.
    merged_prompts: int = 0
    # What the votes and levels say that come: {"votes": {verdict: number}, "levels": {level: number}}.
    says: dict[str, dict[str, int]] = field(default_factory=dict)
    # The first items with their whole texts; they are kept beside the files, not in the row.
    preview: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, kind: str, what: str, number: int = 1) -> None:
        counts = self.counts.setdefault(kind, {"found": 0, "new": 0, "present": 0, "changed": 0})
        counts[what] += number

    def say(self, kind: str, what: str) -> None:
        said = self.says.setdefault(kind, {})
        said[what] = said.get(what, 0) + 1

    @property
    def found(self) -> int:
        return sum(counts["found"] for counts in self.counts.values())

    @property
    def new(self) -> int:
        return sum(counts["new"] + counts["changed"] for counts in self.counts.values())

    def as_json(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "dry_run": self.dry_run,
            "files": self.files,
            "counts": self.counts,
            "rows": self.rows,
            "left_out": self.left_out,
            "unused": self.unused,
            "notes": self.notes,
            "errors": self.errors,
            "merged_prompts": self.merged_prompts,
            "says": self.says,
            "seconds": round(self.seconds, 2),
        }


class Problems:
    """Rows left out: they go to errors.jsonl, the first ones into the report. One problem per row.

    There are bounds: a file of which too much is left out is refused with what was seen.
    """

    def __init__(self, file: TextIO, report: Report) -> None:
        self._file, self._report = file, report
        # At most MAX_LEFT_OUT of them.
        self._rows: set[tuple[str, int | None]] = set()
        self._kinds: Counter[tuple[str, str]] = Counter()
        self._written = 0
        self.first: Problem | None = None

    def add(self, problem: Problem) -> None:
        key = (problem.file, problem.row)
        if key in self._rows:
            return
        if len(self._rows) >= MAX_LEFT_OUT:
            raise ImportRefused(self._too_many(problem))
        self._rows.add(key)
        self._kinds[(problem.field[:MAX_KIND], problem.message[:MAX_KIND])] += 1
        self.first = self.first or problem
        self._report.left_out += 1
        row = {
            name: printable(value) if isinstance(value, str) else value
            for name, value in problem._asdict().items()
        }
        if len(self._report.errors) < SHOWN_ERRORS:
            self._report.errors.append(row)
        if self._written < MAX_ERRORS_BYTES:
            line = json.dumps(row, ensure_ascii=False) + "\n"
            self._written += len(line.encode())
            self._file.write(line)
            if self._written >= MAX_ERRORS_BYTES:
                self._note(
                    f"The list ends here, at {MAX_ERRORS_BYTES // 2**20} MB; further rows are counted only."
                )

    def _note(self, message: str) -> None:
        note = {"file": "", "row": None, "field": "", "message": message, "remedy": "Mend these first."}
        self._file.write(json.dumps(note, ensure_ascii=False) + "\n")

    def _too_many(self, problem: Problem) -> str:
        self._note(f"The import stopped here: more than {MAX_LEFT_OUT:,} rows were left out.")
        seen = "; ".join(
            f"{count:,} × {f'“{field}” ' if field else ''}{message.rstrip('.')}"
            for (field, message), count in self._kinds.most_common(3)
        )
        return (
            f"More than {MAX_LEFT_OUT:,} rows had to be left out, up to row {problem.row or 0:,} of {problem.file}. "
            f"Most often: {seen}. The first: {self.first} Mend the files, or choose their format."
        )


KINDS: dict[str, Callable[..., Record]] = {
    "prompts": PromptRecord,
    "responses": ResponseRecord,
    "pairs": PairRecord,
    "implied": PairRecord,
    "votes": VoteRecord,
    "levels": LevelRecord,
}


def _kind(record: Record) -> str:
    match record:
        case PromptRecord():
            return "prompts"
        case ResponseRecord():
            return "responses"
        case PairRecord():
            # Pairs that only votes speak of come after those with ids of their own.
            return "pairs" if record.id else "implied"
        case VoteRecord():
            return "votes"
        case LevelRecord():
            return "levels"


class Spool:
    """The records of an import in files, one for each kind, so that memory stays small."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = {kind: (folder / kind).open("w", encoding="utf-8") for kind in KINDS}
        self.sizes = dict.fromkeys(KINDS, 0)

    def add(self, where: Where, record: Record) -> None:
        kind = _kind(record)
        self._files[kind].write(json.dumps([*where, *record]) + "\n")
        self.sizes[kind] += 1

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def read(self, kind: str) -> Iterator[tuple[Where, Any]]:
        make = KINDS[kind]
        with (self._folder / kind).open(encoding="utf-8") as file:
            for line in file:
                values = json.loads(line)
                yield Where(values[0], values[1]), make(*values[2:])

    def chunks(self, kind: str, size: int = CHUNK) -> Iterator[list[tuple[Where, Any]]]:
        yield from in_chunks(self.read(kind), size)


def in_chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def spool_records(
    sources: Sequence[Source],
    format_name: str,
    spool: Spool,
    problems: Problems,
    report: Report,
    progress: OnProgress,
    parse: Parser | None = None,
) -> None:
    """Read every file once; good rows go to the spool, bad ones to the problems. Progress counts kilobytes."""
    sizes = [source.size for source in sources]
    tally = shapes.Tally()
    for place, source in enumerate(sources):
        before = sum(sizes[:place])
        count = 0

        def tick(position: int, before: int = before) -> None:
            progress("reading", (before + position) // 1024, sum(sizes) // 1024)

        for number, found in shapes.records(source, format_name, tick, tally, parse):
            count += 1
            if isinstance(found, Problem):
                problems.add(found)
                continue
            for record in found:
                spool.add(Where(place, number), record)
        report.rows += count
        report.files.append(
            {"name": source.name, "bytes": sizes[place], "rows": count, "read_as": read_as(source)}
        )
    report.unused, report.notes = dict(tally.unused.most_common(1000)), dict(tally.notes.most_common())
    spool.close()


class Known:
    """What the import knows of one prompt, response or pair: its row's key, and what must not differ."""

    __slots__ = ("counted", "fresh", "id", "key", "metadata", "pk")

    def __init__(self, id: str, pk: int, key: tuple[Any, ...], *, fresh: bool) -> None:
        self.id, self.pk, self.key, self.fresh, self.counted = id, pk, key, fresh, False
        # Of the metadata that a new response came with; of one that was there nothing is known.
        self.metadata: int | None = None


class CorpusWriter:
    """Finds or writes the prompts, responses and pairs of an import into one project."""

    def __init__(
        self,
        project: Project,
        sources: Sequence[Source],
        spool: Spool,
        problems: Problems,
        report: Report,
        *,
        write: bool,
        origin: Import | None = None,
    ) -> None:
        self.project, self.sources, self.spool, self.problems, self.report = (
            project,
            sources,
            spool,
            problems,
            report,
        )
        self.write, self.origin = write, origin
        self.now = timezone.now()
        self.prompts: dict[str, Known] = {}
        self.responses: dict[str, Known] = {}
        self.pairs: dict[str, Known] = {}
        self._ends: dict[tuple[int, int], Known] = {}
        # Ids under which a file names a pair that is known under another, and whether its sides are swapped.
        self._aliases: dict[str, tuple[Known, bool]] = {}
        self._left_out: dict[tuple[str, str], Where] = {}
        self._stand_in = 0
        self.preview_pairs: list[Known] = []

    # Shared steps

    def problem(self, where: Where, field: str, message: str, remedy: str) -> None:
        self.problems.add(Problem(self.sources[where.file].name, where.row, field, message, remedy))

    def unknown(self, where: Where, field: str, kind: str, id: str) -> None:
        """Report a reference to something that is neither in the files nor in the project."""
        if culprit := self._left_out.get((kind, id)):
            place = f"{self.sources[culprit.file].name}, row {culprit.row}"
            self.problem(where, field, f"names the {kind} “{id}”, which was left out.", f"Mend {place}.")
        else:
            remedy = f"Add a row for that {kind}, or mend the id."
            self.problem(
                where,
                field,
                f"names the {kind} “{id}”, which is neither in the files nor in the project.",
                remedy,
            )

    def create(self, model: type[Model], rows: list[tuple[Known, Any]]) -> None:
        """Write new rows and note their keys; stand-ins in a dry run."""
        if self.write:
            created = model._default_manager.bulk_create([row for _, row in rows])
            for (known, _), row in zip(rows, created, strict=True):
                known.pk = row.pk
            return
        for known, _ in rows:
            self._stand_in -= 1
            known.pk = self._stand_in

    def met(self, kind: str, known: Known) -> None:
        """Count a thing once, however many rows speak of it."""
        if not known.counted:
            known.counted = True
            self.report.count(kind, "found")
            self.report.count(kind, "new" if known.fresh else "present")

    def look_up(self, kind: str, known: dict[str, Known], ids: Iterable[str]) -> None:
        """Load those of the ids that the project has and that aren't known yet."""
        missing = sorted({id for id in ids if id not in known})
        for chunk in in_chunks(missing, CHUNK):
            for pk, external_id, *key in (
                self._existing(kind)
                .filter(external_id__in=chunk)
                .values_list("pk", "external_id", *self._KEYS[kind])
            ):
                known[external_id] = Known(external_id, pk, tuple(key), fresh=False)

    _KEYS = {
        "prompts": ("digest", "group"),
        "responses": ("digest", "prompt_id", "author"),
        "pairs": ("response_a_id", "response_b_id"),
    }

    def _existing(self, kind: str) -> QuerySet[Any]:
        models: dict[str, QuerySet[Any]] = {
            "prompts": self.project.prompts.all(),
            "responses": self.project.responses.all(),
            "pairs": self.project.pairs.all(),
        }
        return models[kind]

    # Prompts and responses

    def write_prompts(self, chunk: list[tuple[Where, PromptRecord]]) -> None:
        self.look_up("prompts", self.prompts, (record.id for _, record in chunk))
        new: list[tuple[Known, Any]] = []
        for where, record in chunk:
            digest = messages_digest(record.messages, list(record.tools))
            known = self.prompts.get(record.id)
            if known is None:
                known = Known(record.id, 0, (digest, record.group), fresh=True)
                self.prompts[record.id] = known
                new.append(
                    (
                        known,
                        Prompt(
                            project=self.project, external_id=record.id, messages=record.messages,
                            tools=list(record.tools), digest=digest, group=record.group, origin=self.origin,
                            created_at=self.now,
                        ),
                    )
                )  # fmt: skip
            elif known.key[0] != digest:
                self._contradicts(where, "messages", "prompt", known, "messages")
                continue
            elif record.group and record.group != known.key[1]:
                self._contradicts(where, "group", "prompt", known, "group")
                continue
            self.report.merged_prompts += known.counted
            self.met("prompts", known)
        self.create(Prompt, new)

    def _contradicts(self, where: Where, field: str, kind: str, known: Known, what: str) -> None:
        place = "earlier in the files" if known.fresh else "in the project already"
        message = f"differs: the {kind} “{known.id}” is {place} with another {what}."
        self.problem(where, field, message, f"Give this {kind} another id, or make the {what} the same.")

    def write_responses(self, chunk: list[tuple[Where, ResponseRecord]]) -> None:
        self.look_up("prompts", self.prompts, (record.prompt for _, record in chunk))
        self.look_up("responses", self.responses, (record.id for _, record in chunk))
        wanted = self.project.overlap if self.project.asks == Project.Asks.LEVELS else 0
        new: list[tuple[Known, Any]] = []
        for where, record in chunk:
            prompt = self.prompts.get(record.prompt)
            if prompt is None:
                self._left_out.setdefault(("response", record.id), where)
                self.unknown(where, "prompt", "prompt", record.prompt)
                continue
            digest = messages_digest(record.messages) if record.messages else text_digest(record.text)
            known = self.responses.get(record.id)
            if known is None:
                known = Known(record.id, 0, (digest, prompt.pk, record.author), fresh=True)
                known.metadata = _fingerprint(record.metadata)
                self.responses[record.id] = known
                new.append(
                    (
                        known,
                        Response(
                            project=self.project, prompt_id=prompt.pk, external_id=record.id, text=record.text,
                            messages=record.messages, digest=digest, author=record.author,
                            metadata=record.metadata, wanted=wanted, origin=self.origin, created_at=self.now,
                        ),
                    )
                )  # fmt: skip
            elif known.key[0] != digest:
                self._contradicts(where, "text", "response", known, "text")
                continue
            elif known.key[1] != prompt.pk:
                self._contradicts(where, "prompt", "response", known, "prompt")
                continue
            elif record.author and record.author != known.key[2]:
                self._contradicts(where, "author", "response", known, "author")
                continue
            elif record.metadata and known.metadata not in (None, _fingerprint(record.metadata)):
                note = "responses that came again with other metadata, of which the first is kept"
                self.report.notes[note] = self.report.notes.get(note, 0) + 1
            self.met("responses", known)
        self.create(Response, new)

    # Pairs

    def write_pairs(self, chunk: list[tuple[Where, PairRecord]]) -> None:
        self.look_up("responses", self.responses, (id for _, record in chunk for id in (record.a, record.b)))
        ends = []
        for where, record in chunk:
            a, b = self.responses.get(record.a), self.responses.get(record.b)
            if a is None or b is None:
                self._left_out.setdefault(("pair", record.id), where)
                field, id = ("a", record.a) if a is None else ("b", record.b)
                self.unknown(where, field, "response", id)
            elif a is b:
                self._left_out.setdefault(("pair", record.id), where)
                self.problem(
                    where, "b", "is the same response as a.", "A pair needs two different responses."
                )
            else:
                ends.append((where, record, a, b))
        self._look_up_ends(ends)
        self.look_up(
            "pairs",
            self.pairs,
            (id for _, record, a, b in ends for id in (record.id, pair_id(a.id, b.id)) if id),
        )
        new: list[tuple[Known, Any]] = []
        for where, record, a, b in ends:
            found = self.pair_of(a.pk, b.pk)
            if found is None:
                if record.id in self.pairs:
                    self._contradicts(where, "id", "pair", self.pairs[record.id], "responses")
                    continue
                known = self._pair(new, record.id or pair_id(a.id, b.id), a, b)
            else:
                known, swapped = found
                if record.id and record.id != known.id:
                    if record.id in self.pairs:
                        self._contradicts(where, "id", "pair", self.pairs[record.id], "responses")
                        continue
                    self._aliases[record.id] = (known, swapped)
                elif record.id:
                    self._aliases[record.id] = (known, swapped)
            self.met("pairs", known)
            if len(self.preview_pairs) < PREVIEW and known not in self.preview_pairs:
                self.preview_pairs.append(known)
        self.create(Pair, new)

    def _pair(self, new: list[tuple[Known, Any]], id: str, a: Known, b: Known) -> Known:
        """A new pair, put among those to write."""
        if id in self.pairs:
            id = f"pair-{fields.short_digest(a.id, b.id)}"
        known = Known(id, 0, (a.pk, b.pk), fresh=True)
        self.pairs[id] = self._ends[(a.pk, b.pk)] = known
        row = Pair(
            project=self.project, external_id=id, response_a_id=a.pk, response_b_id=b.pk,
            wanted=self.project.overlap, origin=self.origin, created_at=self.now,
        )  # fmt: skip
        new.append((known, row))
        return known

    def pair_the_lone(self) -> None:
        """Make the pairs of responses that came without any, as the project pairs; they are counted as “made”."""
        if not self.project.asks_pairs:
            return
        prompts = {known.pk: known for known in self.prompts.values()}
        paired = {pk for ends in self._ends for pk in ends}
        beside: dict[int, set[int]] = {}
        for a, b in self._ends:
            beside.setdefault(a, set()).add(b)
        families: dict[int, list[Known]] = {}
        for known in self.responses.values():
            families.setdefault(known.key[1], []).append(known)
        wanting = [
            pk
            for pk, found in families.items()
            if any(known.counted and known.pk not in paired for known in found)
        ]
        for chunk in in_chunks(wanting, CHUNK):
            self._pair_families({pk: (prompts[pk], families[pk]) for pk in chunk}, paired, beside)

    def _pair_families(
        self,
        families: dict[int, tuple[Known, list[Known]]],
        paired: set[int],
        beside: dict[int, set[int]],
    ) -> None:
        """Of some prompts: what the files have, beside the responses and pairs that the project has."""
        old = [pk for pk, (prompt, _) in families.items() if not prompt.fresh]
        members: dict[int, dict[int, Known]] = {pk: {} for pk in families}
        for pk, external_id, *key in (
            self.project.responses.filter(prompt_id__in=old)
            .order_by("pk")
            .values_list("pk", "external_id", *self._KEYS["responses"])
        ):
            members[key[1]][pk] = Known(external_id, pk, tuple(key), fresh=False)
        for pk, (_, found) in families.items():
            members[pk] = members[pk] | {known.pk: known for known in found}
        ends = {
            end
            for side in ("response_a", "response_b")
            for end in self.project.pairs.filter(**{f"{side}__prompt_id__in": old}).values_list(
                "response_a", "response_b"
            )
        }
        named = paired
        paired = paired.union(*ends)
        there: dict[int, set[int]] = {}
        for a, b in ends:
            there.setdefault(a, set()).add(b)
        made: list[tuple[Known, Known]] = []
        for prompt_pk, (prompt, _) in families.items():
            around = members[prompt_pk]
            if named & around.keys():
                continue  # the files say which pairs they want of this prompt
            made += pairs_to_make(
                list(around.values()),
                lone=[each for each in around.values() if each.counted and each.pk not in paired],
                there=sum(
                    len((beside.get(each, set()) | there.get(each, set())) & around.keys()) for each in around
                ),
                pairing=self.project.pairing,
                limit=self.project.pairing_limit,
                seed=prompt.id,
            )
        self.look_up("pairs", self.pairs, (pair_id(a.id, b.id) for a, b in made))
        new: list[tuple[Known, Any]] = []
        for one, other in made:
            if one.key[0] == other.key[0]:
                continue  # two equal texts are no question
            pair = self._pair(new, pair_id(one.id, other.id), one, other)
            self.report.count("made", "found")
            self.report.count("made", "new")
            if len(self.preview_pairs) < PREVIEW:
                self.preview_pairs.append(pair)
        self.create(Pair, new)

    def _look_up_ends(self, ends: list[tuple[Where, PairRecord, Known, Known]]) -> None:
        """Load the project's pairs between the responses of a chunk, in either order; new responses have none."""
        old = {known.pk for _, _, a, b in ends for known in (a, b) if not a.fresh and not b.fresh}
        missing = [
            (a.pk, b.pk)
            for _, _, a, b in ends
            if not a.fresh and not b.fresh and self.pair_of(a.pk, b.pk) is None
        ]
        if not missing:
            return
        for pks in in_chunks(sorted(old), CHUNK):
            found = self.project.pairs.filter(response_a_id__in=pks).values_list(
                "pk", "external_id", "response_a_id", "response_b_id"
            )
            for pk, external_id, a_pk, b_pk in found.iterator():
                if b_pk in old and (a_pk, b_pk) not in self._ends:
                    known = self.pairs.get(external_id) or Known(external_id, pk, (a_pk, b_pk), fresh=False)
                    self.pairs[external_id] = self._ends[(a_pk, b_pk)] = known

    def pair_of(self, a_pk: int, b_pk: int) -> tuple[Known, bool] | None:
        """The pair of two responses, and whether it has them the other way round."""
        if known := self._ends.get((a_pk, b_pk)):
            return known, False
        if known := self._ends.get((b_pk, a_pk)):
            return known, True
        return None

    def look_up_pairs(self, ids: Iterable[str]) -> None:
        self.look_up("pairs", self.pairs, (id for id in ids if id not in self._aliases))

    def pair_named(self, id: str) -> tuple[Known, bool] | None:
        """The pair a vote names by id, and whether the file has its sides the other way round."""
        if alias := self._aliases.get(id):
            return alias
        known = self.pairs.get(id)
        return (known, False) if known else None


def _fingerprint(metadata: dict[str, Any]) -> int:
    return hash(json.dumps(metadata, sort_keys=True))


def shorten(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def pair_id(a: str, b: str) -> str:
    """The id of a pair that the file gives none."""
    id = f"{a}:{b}"
    return id if len(id) <= fields.MAX_ID else "pair-" + hashlib.sha256(id.encode()).hexdigest()[:40]
