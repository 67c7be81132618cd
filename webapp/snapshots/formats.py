"""The export formats: each is a view of the labels, given as an Arrow schema and a stream of rows.

Ties and "both bad" have no place in chosen/rejected data. They are counted in `left_out` with their reason, and the
report, the page and the data card say so; nothing is dropped silently.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from webapp.corpus.models import Project
from webapp.labels.models import Judgement, Level, QualityLabel, Verdict
from webapp.labels.names import annotator_names
from webapp.snapshots.models import Export
from webapp.snapshots.reading import (
    CHUNK,
    by_bytes,
    iso,
    judgement_id,
    judgement_rows,
    level_rows,
    response_rows,
)

Row = dict[str, Any]
Messages = list[dict[str, str]]
LeftOut = Counter[str]

TEXTS = {
    "pair__response_a__text": "text_a",
    "pair__response_b__text": "text_b",
    "pair__response_a__author": "author_a",
    "pair__response_b__author": "author_b",
    "pair__response_a__prompt_id": "prompt_a",
    "pair__response_b__prompt_id": "prompt_b",
    "pair__response_a__prompt__external_id": "prompt_id",
    "pair__response_a__prompt__group": "group",
    "pair__response_a__prompt__messages": "messages",
}


@dataclass(frozen=True)
class View:
    """One format: its columns (None: lines of several kinds) and its rows."""

    schema: Any
    rows: Callable[[], Iterator[Row]]
    left_out: LeftOut


def view_of(project: Project, *, format: str, aggregation: str, superseded: bool) -> View:
    """The rows of a format. They are read when iterated, inside the caller's consistent read."""
    left_out: LeftOut = Counter()
    Format = Export.Format
    if format == Format.JUDGEMENTS:
        return View(canonical_schema(), lambda: canonical_rows(project, superseded=superseded), left_out)
    if format == Format.CALIPER:
        return View(None, lambda: caliper_rows(project), left_out)
    if format == Format.TRL_UNPAIRED:
        majority = aggregation == Export.Aggregation.MAJORITY
        return View(unpaired_schema(), lambda: unpaired_rows(project, left_out, majority=majority), left_out)
    make = _SHAPES[format]
    schema = preference_schema(explicit=format in _EXPLICIT, conversational=format in _CONVERSATIONAL)
    return View(schema, lambda: map(make, preferences(project, aggregation, left_out)), left_out)


# Canonical: one row per judgement ------------------------------------------------------------------------------


def _messages_type() -> Any:
    import pyarrow as pa

    return pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def canonical_schema() -> Any:
    import pyarrow as pa

    text, moment, flag = pa.string(), pa.timestamp("us", tz="UTC"), pa.bool_()
    return pa.schema(
        [
            ("judgement_id", text), ("pair_id", text), ("prompt_id", text), ("group", text),
            ("messages", _messages_type()),
            ("response_a_id", text), ("response_a", text), ("author_a", text),
            ("response_b_id", text), ("response_b", text), ("author_b", text),
            ("verdict", text), ("strength", pa.int8()), ("reasons", pa.list_(text)), ("comment", text),
            ("annotator", text), ("annotator_kind", text),
            ("left", text), ("policy", text), ("propensity", pa.float64()), ("source", text),
            ("shown_at", moment), ("created_at", moment),
            ("level_a", text), ("level_b", text),
            ("superseded", flag), ("retraction", flag), ("contradiction_kept", flag),
        ]
    )  # fmt: skip


def canonical_rows(project: Project, *, superseded: bool) -> Iterator[Row]:
    """Current judgements with their texts and the same annotator's levels; on demand corrected ones as well."""
    judgements = Judgement.objects.all() if superseded else Judgement.objects.current()
    rows = judgement_rows(judgements, project, annotator_names(project), TEXTS)
    for chunk in _chunks(rows, 500):
        levels = _levels_of(chunk)
        for row in chunk:
            yield {
                **row,
                "judgement_id": judgement_id(row),
                "pair_id": row["pair"],
                "group": row["group"] or row["prompt_id"],
                "messages": _plain(row["messages"]),
                "response_a": row["text_a"],
                "response_b": row["text_b"],
                "reasons": [str(reason) for reason in row["reasons"]],
                "left": row["left"] or None,
                "policy": row["policy"] or None,
                "level_a": levels.get((row["a_pk"], row["annotator_id"])),
                "level_b": levels.get((row["b_pk"], row["annotator_id"])),
                "superseded": not row["is_current"],
            }


def _levels_of(rows: list[Row]) -> dict[tuple[int, int], str]:
    """Current levels by (response, annotator) for a chunk of judgements."""
    responses = {row[side] for row in rows for side in ("a_pk", "b_pk")}
    annotators = {row["annotator_id"] for row in rows}
    found = (
        QualityLabel.objects.current()
        .filter(response__in=responses, annotator__in=annotators)
        .values_list("response_id", "annotator_id", "level")
    )
    return {(response, annotator): level for response, annotator, level in found}


def _chunks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _plain(messages: Messages) -> Messages:
    return [{"role": message["role"], "content": message["content"]} for message in messages]


# Caliper JSONL: everything, importable -------------------------------------------------------------------------


def caliper_rows(project: Project) -> Iterator[Row]:
    """Prompts, responses, pairs, current votes and levels as import lines (webapp/importing/FORMATS.md)."""
    names = annotator_names(project)
    prompts = project.prompts.order_by(by_bytes("external_id")).values_list(
        "external_id", "messages", "group"
    )
    for id, messages, group in prompts.iterator(CHUNK):
        yield _line(type="prompt", id=id, messages=_plain(messages), group=group)
    for row in response_rows(project):
        yield _line(
            type="response", id=row["response_id"], prompt=row["prompt_id"], text=row["text"], author=row["author"],
            metadata=row["metadata"],
        )  # fmt: skip
    pairs = project.pairs.order_by(by_bytes("external_id"))
    for id, a, b in pairs.values_list(
        "external_id", "response_a__external_id", "response_b__external_id"
    ).iterator(CHUNK):
        yield _line(type="pair", id=id, a=a, b=b)
    for row in judgement_rows(Judgement.objects.current(), project, names):
        yield _line(
            type="vote", pair=row["pair"], annotator=row["annotator"], verdict=row["verdict"], strength=row["strength"],
            comment=row["comment"], reasons=[str(reason) for reason in row["reasons"]], left=row["left"],
            created_at=iso(row["created_at"]), shown_at=iso(row["shown_at"]), policy=row["policy"],
            propensity=row["propensity"],
        )  # fmt: skip
    for row in level_rows(project, names):
        yield _line(
            type="level", response=row["response_id"], annotator=row["annotator"], level=row["level"],
            comment=row["comment"], created_at=iso(row["created_at"]),
        )  # fmt: skip


def _line(**fields: Any) -> Row:
    """A line without its empty fields."""
    return {name: value for name, value in fields.items() if value not in (None, "", [], {})}


# TRL preference ------------------------------------------------------------------------------------------------

_EXPLICIT = {Export.Format.TRL_EXPLICIT.value, Export.Format.TRL_CONVERSATIONAL.value}
_CONVERSATIONAL = {Export.Format.TRL_CONVERSATIONAL.value, Export.Format.TRL_CONVERSATIONAL_IMPLICIT.value}


@dataclass(frozen=True)
class Preference:
    messages: Messages
    chosen: str
    rejected: str


def preference_schema(*, explicit: bool, conversational: bool) -> Any:
    import pyarrow as pa

    kind = _messages_type() if conversational else pa.string()
    return pa.schema([(name, kind) for name in (["prompt"] if explicit else []) + ["chosen", "rejected"]])


def preferences(project: Project, aggregation: str, left_out: LeftOut) -> Iterator[Preference]:
    """Verdicts for one side, per vote or per pair; whatever else people said is counted in `left_out`."""
    rows = judgement_rows(Judgement.objects.current(), project, annotator_names(project), TEXTS)
    if aggregation == Export.Aggregation.VOTE:
        for row in rows:
            yield from _preference(row, row["verdict"], left_out)
        return
    for _, group in groupby(rows, key=lambda row: row["pair_id"]):
        votes = list(group)
        verdict = majority_verdict(row["verdict"] for row in votes)
        if verdict is not None:
            yield from _preference(votes[0], verdict, left_out)


def majority_verdict(verdicts: Iterable[str]) -> str | None:
    """The verdict more people gave than any other, "no majority" if two share the first place, None if all skipped."""
    counts = Counter(verdict for verdict in verdicts if verdict != Verdict.SKIP).most_common(2)
    if not counts:
        return None
    return "no majority" if len(counts) == 2 and counts[0][1] == counts[1][1] else counts[0][0]


def _preference(row: Row, verdict: str, left_out: LeftOut) -> Iterator[Preference]:
    if verdict not in (Verdict.A, Verdict.B):
        left_out[verdict] += 1
    elif row["prompt_a"] != row["prompt_b"]:
        left_out["different prompts"] += 1
    else:
        texts = row["text_a"], row["text_b"]
        chosen, rejected = texts if verdict == Verdict.A else texts[::-1]
        yield Preference(_plain(row["messages"]), chosen, rejected)


_SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "System", "tool": "System"}


def transcript(messages: Messages) -> str:
    """A conversation as one text in the manner of hh-rlhf."""
    return "".join(f"\n\n{_SPEAKERS[message['role']]}: {message['content']}" for message in messages)


def prompt_text(messages: Messages) -> str:
    """A conversation as the text of a prompt: a lone user message as it is, anything longer as a transcript."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return transcript(messages)


def _answer(text: str) -> Messages:
    return [{"role": "assistant", "content": text}]


def _explicit(p: Preference) -> Row:
    return {"prompt": prompt_text(p.messages), "chosen": p.chosen, "rejected": p.rejected}


def _implicit(p: Preference) -> Row:
    return {
        side: transcript(p.messages + _answer(text))
        for side, text in (("chosen", p.chosen), ("rejected", p.rejected))
    }


def _conversational(p: Preference) -> Row:
    return {"prompt": p.messages, "chosen": _answer(p.chosen), "rejected": _answer(p.rejected)}


def _conversational_implicit(p: Preference) -> Row:
    return {"chosen": p.messages + _answer(p.chosen), "rejected": p.messages + _answer(p.rejected)}


_SHAPES: dict[str, Callable[[Preference], Row]] = {
    Export.Format.TRL_EXPLICIT: _explicit,
    Export.Format.TRL_IMPLICIT: _implicit,
    Export.Format.TRL_CONVERSATIONAL: _conversational,
    Export.Format.TRL_CONVERSATIONAL_IMPLICIT: _conversational_implicit,
}


# TRL unpaired --------------------------------------------------------------------------------------------------


def unpaired_schema() -> Any:
    import pyarrow as pa

    return pa.schema([("prompt", pa.string()), ("completion", pa.string()), ("label", pa.bool_())])


def unpaired_rows(project: Project, left_out: LeftOut, *, majority: bool) -> Iterator[Row]:
    """Each word of an annotator that calls a response good (true) or bad (false), or their majority per response.

    Good are the level good and the preferred side; bad are the level bad, the other side, and both of "both bad".
    """
    words: dict[int, list[int]] = {}
    names = annotator_names(project)
    for row in judgement_rows(Judgement.objects.current(), project, names):
        verdict, sides = row["verdict"], (row["a_pk"], row["b_pk"])
        if verdict in (Verdict.TIE, Verdict.SKIP):
            left_out[verdict] += 1
            continue
        for pk, good in zip(sides, (verdict == Verdict.A, verdict == Verdict.B), strict=True):
            words.setdefault(pk, [0, 0])[good] += 1
    for row in level_rows(project, names):
        if row["level"] == Level.NORMAL:
            left_out["level normal"] += 1
        else:
            words.setdefault(row["response_pk"], [0, 0])[row["level"] == Level.GOOD] += 1
    responses = project.responses.order_by(by_bytes("external_id")).values_list(
        "pk", "text", "prompt__messages"
    )
    for pk, text, messages in responses.iterator(CHUNK):
        if pk not in words:
            continue
        bad, good = words[pk]
        row = {"prompt": prompt_text(_plain(messages)), "completion": text}
        if not majority:
            yield from ({**row, "label": True} for _ in range(good))
            yield from ({**row, "label": False} for _ in range(bad))
        elif good != bad:
            yield {**row, "label": good > bad}
        else:
            left_out["no majority"] += 1
