"""Importing labels, and the order of a whole import: read, check, write.

    read    the files once, row by row, into a spool (no transaction is open, progress goes into the row)
    check   what is new, what is there already, what contradicts (a dry run ends here)
    write   the same walk, with the new rows, in one transaction that also finishes the Import row (SQLite: in batches)

Nothing is half-imported: rows with problems are left out, listed and counted; everything else is there after the
commit, or nothing is. Importing a file again changes nothing.

Decided: an annotator's repeated verdict on a pair is "present" if it says the same; another verdict supersedes the
imported one (append-only), unless it is older. Imports never overrule people: a verdict that contradicts what a
person said in the browser under the same name is left out.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from django.contrib.auth.hashers import make_password
from django.db.models import F, Model
from django.db.models.functions import Greatest

from webapp.accounts.models import User
from webapp.corpus.models import Pair, Response
from webapp.importing.loading import Table, iso
from webapp.importing.report import shorten
from webapp.importing.shapes import LevelRecord, VoteRecord
from webapp.importing.spool import CHUNK, Where, in_chunks
from webapp.importing.writing import CorpusWriter, Known
from webapp.labels.models import Judgement, QualityLabel, Verdict
from webapp.labels.models import Source as LabelSource
from webapp.labels.names import imported_username

logger = logging.getLogger(__name__)

VOTE = (
    "supersedes_id", "client_key", "pair_id", "annotator_id", "verdict", "strength", "reasons", "comment", "left",
    "shown_at", "created_at", "policy", "propensity", "contradiction_kept",
)  # fmt: skip
LEVEL = (
    "supersedes_id", "client_key", "response_id", "annotator_id", "level", "comment", "created_at",
)  # fmt: skip

_SWAPPED = {"a": "b", "b": "a"}


def _other_side(reason: str) -> str:
    """A reason of one side ("a:clear") where the pair has its sides the other way round."""
    side, mark, tag = reason.partition(":")
    return f"{_SWAPPED[side]}:{tag}" if mark and side in _SWAPPED else reason


class _Annotator:
    """An imported name: its user, and whether a person judges under the same name in this project."""

    __slots__ = ("counted", "fresh", "name", "pk")

    def __init__(self, name: str, pk: int, *, fresh: bool) -> None:
        self.name, self.pk, self.fresh, self.counted = name, pk, fresh, False


class _Said:
    """A current word of somebody on something: what, when, by whom, and the row's key."""

    __slots__ = ("annotator_pk", "by_person", "created_at", "pk", "what")

    def __init__(
        self,
        pk: int,
        what: tuple[Any, ...],
        created_at: datetime | None,
        annotator_pk: int,
        *,
        by_person: bool,
    ) -> None:
        self.pk, self.what, self.created_at = pk, what, created_at
        self.annotator_pk, self.by_person = annotator_pk, by_person


class _Earlier:
    """What the files said so far, and in which row, by (pair or response, annotator): two small numbers each."""

    def __init__(self) -> None:
        self._said: dict[int, int] = {}
        self._words: dict[tuple[Any, ...], int] = {}

    def get(self, key: tuple[int, int]) -> tuple[tuple[Any, ...], int] | None:
        said = self._said.get((key[0] << 32) + key[1])
        return None if said is None else (list(self._words)[said & 0xFF], said >> 8)

    def note(self, key: tuple[int, int], what: tuple[Any, ...], row: int) -> None:
        self._said[(key[0] << 32) + key[1]] = row << 8 | self._words.setdefault(what, len(self._words))


class LabelWriter:
    """Finds or writes annotators, votes and levels of an import. Stand-ins and counts as in CorpusWriter."""

    def __init__(self, corpus: CorpusWriter, *, write: bool) -> None:
        self.corpus, self.report, self.project, self.write = corpus, corpus.report, corpus.project, write
        self.annotators: dict[str, _Annotator] = {}
        self.people: dict[str, _Annotator] = {}
        # What the files themselves said so far, by (pair or response, annotator).
        self._votes, self._levels = _Earlier(), _Earlier()
        self.judged: dict[int, int] = defaultdict(int)
        self.labelled: dict[int, int] = defaultdict(int)
        self.preview_votes: dict[int, list[dict[str, str]]] = defaultdict(list)
        self._now = iso(corpus.now)
        same: dict[str, Any] = {"source": LabelSource.IMPORT, "origin_id": corpus.origin and corpus.origin.pk}
        self._vote_rows = corpus.loader.table(Judgement, VOTE, **same)
        self._level_rows = corpus.loader.table(QualityLabel, LEVEL, **same)

    def _look_up_annotators(self, names: Iterable[str]) -> None:
        missing = sorted({name for name in names if name not in self.annotators})
        usernames = {imported_username(self.project, name): name for name in missing}
        for username, pk in User.objects.filter(username__in=usernames).values_list("username", "pk"):
            name = usernames.pop(username)
            self.annotators[name] = _Annotator(name, pk, fresh=False)
        users = [
            User(username=username, kind=User.Kind.IMPORTED, is_active=False, password=make_password(None))
            for username in usernames
        ]
        if self.write and users:
            with self.corpus.batch():
                User.objects.bulk_create(users)
        for user, name in zip(users, usernames.values(), strict=True):
            pk = user.pk if self.write else self.corpus.stand_in()
            self.annotators[name] = _Annotator(name, pk, fresh=True)

    def _annotator(self, name: str, before: _Said | None) -> _Annotator:
        """The imported annotator of that name, or the person whose own word has come back."""
        if before is not None and before.by_person:
            return self.people.setdefault(name, _Annotator(name, before.annotator_pk, fresh=False))
        return self.annotators[name]

    def _met(self, annotator: _Annotator) -> None:
        if not annotator.counted:
            annotator.counted = True
            self.report.count("annotators", "found")
            self.report.count("annotators", "new" if annotator.fresh else "present")

    def _current(
        self, model: type[Model], of: str, keys: set[int], what: tuple[str, ...]
    ) -> dict[tuple[int, str], _Said]:
        """Current words on these pairs (responses) by (key, the annotator's username)."""
        said = {}
        rows = model._default_manager.filter(**{f"{of}__in": keys, "is_current": True}).values_list(
            "pk",
            f"{of}_id",
            "created_at",
            "retraction",
            "annotator",
            "annotator__username",
            "annotator__kind",
            *what,
        )
        for pk, key, created_at, retraction, user, username, account_type, *values in rows:
            words = ("retracted",) if retraction else tuple(values)
            said[key, username] = _Said(
                pk, words, created_at, user, by_person=account_type == User.Kind.PERSON
            )
        return said

    def _before(self, said: dict[tuple[int, str], _Said], key: int, name: str) -> _Said | None:
        """What the imported annotator said; else what the person of that name did, who is met when an export of this
        project comes back into it."""
        if before := said.get((key, imported_username(self.project, name))):
            return before
        before = said.get((key, name))
        return before if before and before.by_person else None

    def _verdict(
        self,
        where: Where,
        field: str,
        record: VoteRecord | LevelRecord,
        key: tuple[int, int],
        what: tuple[Any, ...],
        earlier: "_Earlier",
        said: _Said | None,
    ) -> str | None:
        """new, present or changed; None if the row is left out (and why is reported)."""
        remedy = "Keep one of the two rows."
        if before := earlier.get(key):
            if before[0] != what:
                message = f"differs from row {before[1]}, where “{record.annotator}” judged the same."
                self.corpus.problem(where, field, message, remedy)
                return None
            note = f"{field}s that repeat what an earlier row says, counted once"
            self.report.notes[note] = self.report.notes.get(note, 0) + 1
            return "repeated"
        if said is None:
            return "new"
        if said.what == what:
            return "present"
        if said.by_person:
            message = (
                f"contradicts what the person “{record.annotator}” said here; imports don't overrule people."
            )
            self.corpus.problem(where, field, message, "Give the imported annotator another name.")
            return None
        if (
            record.created_at
            and said.created_at
            and datetime.fromisoformat(record.created_at) < said.created_at
        ):
            message = f"differs from the newer word of “{record.annotator}” that is in the project already."
            self.corpus.problem(where, field, message, "Leave the row out, or give it a later created_at.")
            return None
        return "changed"

    # --- Votes ---

    def write_votes(self, chunk: list[tuple[Where, VoteRecord]]) -> None:
        corpus = self.corpus
        corpus.look_up_pairs(record.pair for _, record in chunk if record.pair)
        corpus.look_up(
            "responses", corpus.responses, (id for _, r in chunk if not r.pair for id in (r.a, r.b))
        )
        votes: list[tuple[Where, VoteRecord, Known]] = []
        for where, record in chunk:
            if record.pair:
                found = corpus.pair_named(record.pair)
                if found is None:
                    corpus.unknown(where, "pair", "pair", record.pair)
                    continue
            else:
                a, b = corpus.responses.get(record.a), corpus.responses.get(record.b)
                found = corpus.pair_of(a.pk, b.pk) if a and b else None
                if found is None:
                    continue  # its pair was left out, and the row with it
            pair, swapped = found
            if swapped:
                verdict, left = _SWAPPED.get(record.verdict, record.verdict), _SWAPPED.get(record.left, "")
                reasons = [_other_side(reason) for reason in record.reasons]
                record = record._replace(verdict=verdict, left=left, reasons=reasons)
            votes.append((where, record, pair))
        old_pairs = {pair.pk for _, _, pair in votes if not pair.fresh}
        said = self._current(Judgement, "pair", old_pairs, ("verdict", "strength"))
        known = [self._before(said, pair.pk, record.annotator) for _, record, pair in votes]
        self._look_up_annotators(
            record.annotator
            for (_, record, _), before in zip(votes, known, strict=True)
            if before is None or not before.by_person
        )
        fresh: list[tuple[Any, ...]] = []
        for (where, record, pair), before in zip(votes, known, strict=True):
            annotator = self._annotator(record.annotator, before)
            key, what = (pair.pk, annotator.pk), (record.verdict, record.strength)
            outcome = self._verdict(where, "verdict", record, key, what, self._votes, before)
            if outcome is None or outcome == "repeated":
                continue
            self._votes.note(key, what, where.row)
            self._met(annotator)
            self.report.count("votes", "found")
            self.report.count("votes", outcome)
            self.report.say("votes", record.verdict)
            if pair in corpus.preview_pairs and len(self.preview_votes[pair.pk]) < 8:
                vote = {
                    "annotator": record.annotator,
                    "verdict": record.verdict,
                    "comment": shorten(record.comment, 120),
                }
                self.preview_votes[pair.pk].append(vote)
            if outcome == "present":
                continue
            old = before if outcome == "changed" else None
            silent = (Verdict.SKIP, "retracted")
            self.judged[pair.pk] += (record.verdict != Verdict.SKIP) - (
                old is not None and old.what[0] not in silent
            )
            if self.write:
                fresh.append(self._judgement(record, pair, annotator, old))
        self._store(self._vote_rows, fresh, self.judged, old_pairs)

    def _judgement(
        self, record: VoteRecord, pair: Known, annotator: _Annotator, old: _Said | None
    ) -> tuple[Any, ...]:
        """Values of VOTE."""
        return (
            old and old.pk,
            f"import:{pair.pk}:{annotator.pk}:{old.pk if old else 0}",
            pair.pk,
            annotator.pk,
            record.verdict,
            record.strength,
            list(record.reasons),
            record.comment,
            record.left,
            record.shown_at,
            record.created_at or self._now,
            record.policy,
            record.propensity,
            record.contradiction_kept,
        )

    def _store(
        self, table: Table, rows: Sequence[tuple[Any, ...]], counts: dict[int, int], old: set[int]
    ) -> None:
        """Write labels, whose first value is the key of the one that they supersede.

        In batches, the counters of what was there before go with them: they are in the queue's hands already.
        """
        if not rows:
            return
        with self.corpus.batch():
            for pks in in_chunks((row[0] for row in rows if row[0]), CHUNK):
                table.model._default_manager.filter(pk__in=pks).update(is_current=False)
            table.write(rows)
            if self.corpus.batches is not None:
                self._add({pk: counts.pop(pk) for pk in old & counts.keys()}, pairs=counts is self.judged)

    # --- Levels ---

    def write_levels(self, chunk: list[tuple[Where, LevelRecord]]) -> None:
        corpus = self.corpus
        corpus.look_up("responses", corpus.responses, (record.response for _, record in chunk))
        levels: list[tuple[Where, LevelRecord, Known]] = []
        for where, record in chunk:
            if response := corpus.responses.get(record.response):
                levels.append((where, record, response))
            else:
                corpus.unknown(where, "response", "response", record.response)
        old = {response.pk for _, _, response in levels if not response.fresh}
        said = self._current(QualityLabel, "response", old, ("level",))
        known = [self._before(said, response.pk, record.annotator) for _, record, response in levels]
        self._look_up_annotators(
            record.annotator
            for (_, record, _), before in zip(levels, known, strict=True)
            if before is None or not before.by_person
        )
        fresh: list[tuple[Any, ...]] = []
        for (where, record, response), before in zip(levels, known, strict=True):
            annotator = self._annotator(record.annotator, before)
            key, what = (response.pk, annotator.pk), (record.level,)
            outcome = self._verdict(where, "level", record, key, what, self._levels, before)
            if outcome is None or outcome == "repeated":
                continue
            self._levels.note(key, what, where.row)
            self._met(annotator)
            self.report.count("levels", "found")
            self.report.count("levels", outcome)
            self.report.say("levels", record.level)
            if outcome == "present":
                continue
            replaced = before if outcome == "changed" else None
            self.labelled[response.pk] += 1 - (replaced is not None and replaced.what[0] != "retracted")
            if self.write:
                fresh.append(
                    (
                        replaced and replaced.pk,
                        f"import:{response.pk}:{annotator.pk}:{replaced.pk if replaced else 0}",
                        response.pk,
                        annotator.pk,
                        record.level,
                        record.comment,
                        record.created_at or self._now,
                    )
                )
        self._store(self._level_rows, fresh, self.labelled, old)

    # --- Counters ---

    def write_counters(self) -> None:
        """Add what was imported to the queue's counters, last, so that their rows are locked only briefly.

        A pair that came with more votes than the project wants wants exactly those: it is complete, and asked no more.
        """
        if not self.write:
            return
        # Only where some of the votes that were counted on were left out.
        mended: dict[int, list[int]] = defaultdict(list)
        for pk, foretold in self.corpus.foretold.items():
            if (judged := self.judged.pop(pk, 0)) != foretold:
                mended[judged].append(pk)
        for judged, pks in mended.items():
            for chunk in in_chunks(pks, CHUNK):
                with self.corpus.batch():
                    Pair.objects.filter(pk__in=chunk).update(judged=judged, wanted=self.corpus.wanted(judged))
        for counts in (self.judged, self.labelled):
            for chunk in in_chunks(sorted(counts), CHUNK):
                with self.corpus.batch():
                    # In batches these are new, and nothing is wanted of them before they are opened.
                    self._add(
                        {pk: counts[pk] for pk in chunk},
                        pairs=counts is self.judged,
                        wanted=self.corpus.batches is None,
                    )

    def _add(self, counts: dict[int, int], *, pairs: bool, wanted: bool = True) -> None:
        """To pairs' `judged`, and `wanted` where it becomes more than that; or to responses' `labelled`."""
        for delta, pks in _by_value(counts).items():
            if pairs:
                raised = {"wanted": Greatest(F("wanted"), F("judged") + delta)} if wanted else {}
                Pair.objects.filter(pk__in=pks).update(judged=F("judged") + delta, **raised)
            else:
                Response.objects.filter(pk__in=pks).update(labelled=F("labelled") + delta)


def _by_value(counts: dict[int, int]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = defaultdict(list)
    for pk, count in sorted(counts.items()):
        if count:
            groups[count].append(pk)
    return groups
