"""Writing imported prompts, responses and pairs.

The files are read before (importing.spool). `CorpusWriter` goes through their prompts, responses and pairs, finds out
what is new, what is there already and what contradicts, and writes the new rows. A dry run does all but the writing:
new rows get negative stand-ins for primary keys. `importing.services` orders the steps and does the same with labels.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from django.db.models import QuerySet
from django.utils import timezone

from webapp.corpus.models import (
    Import,
    ImportQuerySet,
    Pair,
    Project,
    Prompt,
    Response,
    messages_digest,
    text_digest,
)
from webapp.corpus.pairing import pairs_to_make
from webapp.importing import fields
from webapp.importing.batches import batch
from webapp.importing.loading import Loader, Table
from webapp.importing.reading import Problem, Source
from webapp.importing.report import Problems, Report
from webapp.importing.shapes import PairRecord, PromptRecord, ResponseRecord
from webapp.importing.spool import CHUNK, Spool, Where, in_chunks

PREVIEW = 5


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
        loader: Loader,
        *,
        write: bool,
        origin: Import | None = None,
        batches: ImportQuerySet | None = None,
    ) -> None:
        """With `batches` each chunk is a transaction, made while its row is among those, and asked of nobody yet."""
        self.project, self.sources, self.spool, self.problems, self.report = (
            project,
            sources,
            spool,
            problems,
            report,
        )
        self.write, self.origin, self.batches, self.loader = write, origin, batches, loader
        self.now = timezone.now()
        self.prompts: dict[str, Known] = {}
        self.responses: dict[str, Known] = {}
        self.pairs: dict[str, Known] = {}
        self._ends: dict[tuple[int, int], Known] = {}
        # Ids under which a file names a pair that is known under another, and whether its sides are swapped.
        self._aliases: dict[str, tuple[Known, bool]] = {}
        self._left_out: dict[tuple[str, str], Where] = {}
        self._stand_in = 0
        same: dict[str, Any] = {
            "project_id": project.pk,
            "origin_id": origin and origin.pk,
            "created_at": self.now,
        }
        self._prompt_rows = loader.table(
            Prompt,
            ("id", "external_id", "messages", "tools", "digest", "group"),
            expected=spool.sizes["prompts"],
            **same,
        )
        wanted = self.wanted(0)
        self._response_rows = loader.table(
            Response,
            ("id", "prompt_id", "external_id", "text", "messages", "digest", "author", "metadata"),
            expected=spool.sizes["responses"],
            wanted=0 if project.asks_pairs else wanted,
            **same,
        )
        self._pair_rows = loader.table(
            Pair,
            ("id", "external_id", "response_a_id", "response_b_id", "judged", "wanted"),
            expected=spool.sizes["pairs"] + spool.sizes["implied"],
            **same,
        )
        # Pairs are written as judged by as many as the files say, before each vote is looked at: see write_counters.
        self.foretold: dict[int, int] = {}
        # Of what the project has none of nothing need be looked up; nobody else adds any meanwhile.
        self._none = {name for name in self._KEYS if not self._existing(name).exists()}
        self.preview_pairs: list[Known] = []

    # --- Shared steps ---

    def problem(self, where: Where, field: str, message: str, remedy: str) -> None:
        self.problems.add(Problem(self.sources[where.file].name, where.row, field, message, remedy))

    def unknown(self, where: Where, field: str, record_type: str, id: str) -> None:
        """Report a reference to something that is neither in the files nor in the project."""
        if culprit := self._left_out.get((record_type, id)):
            place = f"{self.sources[culprit.file].name}, row {culprit.row}"
            self.problem(
                where, field, f"names the {record_type} “{id}”, which was left out.", f"Mend {place}."
            )
        else:
            remedy = f"Add a row for that {record_type}, or mend the id."
            self.problem(
                where,
                field,
                f"names the {record_type} “{id}”, which is neither in the files nor in the project.",
                remedy,
            )

    def create(self, table: Table, rows: list[tuple[Known, tuple[Any, ...]]]) -> None:
        """Write new rows, which have no keys yet, and note their keys; stand-ins in a dry run."""
        if not self.write:
            for known, _ in rows:
                known.pk = self.stand_in()
            return
        if not rows:
            return
        with self.batch():
            for (known, _), pk in zip(rows, keys := table.keys(len(rows)), strict=True):
                known.pk = pk
            table.write([(pk, *row) for pk, (_, row) in zip(keys, rows, strict=True)])

    def batch(self) -> AbstractContextManager[None]:
        return nullcontext() if self.batches is None else batch(self.batches)

    def stand_in(self) -> int:
        self._stand_in -= 1
        return self._stand_in

    def met(self, record_type: str, known: Known) -> None:
        """Count a thing once, however many rows speak of it."""
        if not known.counted:
            known.counted = True
            self.report.count(record_type, "found")
            self.report.count(record_type, "new" if known.fresh else "present")

    def look_up(self, record_type: str, known: dict[str, Known], ids: Iterable[str]) -> None:
        """Load those of the ids that the project has and that aren't known yet."""
        if record_type in self._none:
            return
        missing = sorted({id for id in ids if id not in known})
        for chunk in in_chunks(missing, CHUNK):
            for pk, external_id, *key in (
                self._existing(record_type)
                .filter(external_id__in=chunk)
                .values_list("pk", "external_id", *self._KEYS[record_type])
            ):
                known[external_id] = Known(external_id, pk, tuple(key), fresh=False)

    _KEYS = {
        "prompts": ("digest", "group"),
        "responses": ("digest", "prompt_id", "author"),
        "pairs": ("response_a_id", "response_b_id"),
    }

    def _existing(self, record_type: str) -> QuerySet[Any]:
        models: dict[str, QuerySet[Any]] = {
            "prompts": self.project.prompts.all(),
            "responses": self.project.responses.all(),
            "pairs": self.project.pairs.all(),
        }
        return models[record_type]

    # --- Prompts and responses ---

    def write_prompts(self, chunk: list[tuple[Where, PromptRecord]]) -> None:
        self.look_up("prompts", self.prompts, (record.id for _, record in chunk))
        new: list[tuple[Known, tuple[Any, ...]]] = []
        for where, record in chunk:
            digest = messages_digest(record.messages, list(record.tools))
            known = self.prompts.get(record.id)
            if known is None:
                known = Known(record.id, 0, (digest, record.group), fresh=True)
                self.prompts[record.id] = known
                row = (record.id, record.messages, list(record.tools), digest, record.group)
                new.append((known, row))
            elif known.key[0] != digest:
                self._contradicts(where, "messages", "prompt", known, "messages")
                continue
            elif record.group and record.group != known.key[1]:
                self._contradicts(where, "group", "prompt", known, "group")
                continue
            self.report.merged_prompts += known.counted
            self.met("prompts", known)
        self.create(self._prompt_rows, new)

    def _contradicts(self, where: Where, field: str, record_type: str, known: Known, what: str) -> None:
        place = "earlier in the files" if known.fresh else "in the project already"
        message = f"differs: the {record_type} “{known.id}” is {place} with another {what}."
        self.problem(
            where, field, message, f"Give this {record_type} another id, or make the {what} the same."
        )

    def write_responses(self, chunk: list[tuple[Where, ResponseRecord]]) -> None:
        self.look_up("prompts", self.prompts, (record.prompt for _, record in chunk))
        self.look_up("responses", self.responses, (record.id for _, record in chunk))
        new: list[tuple[Known, tuple[Any, ...]]] = []
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
                row = (
                    prompt.pk, record.id, record.text, record.messages, digest, record.author, record.metadata
                )  # fmt: skip
                new.append((known, row))
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
        self.create(self._response_rows, new)

    # --- Pairs ---

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
        new: list[tuple[Known, tuple[Any, ...]]] = []
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
        self._create_pairs(new)

    def _pair(self, new: list[tuple[Known, tuple[Any, ...]]], id: str, a: Known, b: Known) -> Known:
        """A new pair, put among those to write."""
        if id in self.pairs:
            id = f"pair-{fields.short_digest(a.id, b.id)}"
        known = Known(id, 0, (a.pk, b.pk), fresh=True)
        self.pairs[id] = self._ends[(a.pk, b.pk)] = known
        votes = sum(self.spool.votes.pop(named, 0) for named in (id, (a.id, b.id), (b.id, a.id)))
        new.append((known, (id, a.pk, b.pk, votes, self.wanted(votes))))
        return known

    def _create_pairs(self, new: list[tuple[Known, tuple[Any, ...]]]) -> None:
        self.create(self._pair_rows, new)
        self.foretold |= {known.pk: row[3] for known, row in new if row[3]}

    def wanted(self, judged: int) -> int:
        """What a new pair with so many judgements wants. In batches nothing is asked before all is there."""
        return 0 if self.batches is not None else max(self.project.overlap, judged)

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
        new: list[tuple[Known, tuple[Any, ...]]] = []
        for one, other in made:
            if one.key[0] == other.key[0]:
                continue  # two equal texts are no question
            pair = self._pair(new, pair_id(one.id, other.id), one, other)
            self.report.count("made", "found")
            self.report.count("made", "new")
            if len(self.preview_pairs) < PREVIEW:
                self.preview_pairs.append(pair)
        self._create_pairs(new)

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


def pair_id(a: str, b: str) -> str:
    """The id of a pair that the file gives none."""
    id = f"{a}:{b}"
    return id if len(id) <= fields.MAX_ID else "pair-" + hashlib.sha256(id.encode()).hexdigest()[:40]
