"""What the rows of each import format mean: a parser turns one row into neutral records.

FORMATS.md, beside this file, describes every format for the people who write such files. A parser is a function of
one row: it either returns all records of the row or raises `RowError`, so that a row is taken whole or left out.
Ids of formats without ids are made from the content, so that importing a file again finds what is already there.
"""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from django.conf import settings

from webapp.corpus.models import messages_digest
from webapp.importing.fields import (
    MAX_ID,
    Message,
    RowError,
    check_text,
    choice_of,
    comment_of,
    given,
    id_of,
    integer_of,
    messages_of,
    metadata_of,
    name_of,
    number_of,
    optional,
    parsed_cell,
    short_digest,
    text_of,
    time_of,
)
from webapp.importing.reading import ImportRefused, Problem, Row, Source, Tick, json_kind, printable, rows

logger = logging.getLogger(__name__)

VERDICTS = ("a", "b", "tie", "both_bad", "skip")
# Far more than a project offers, or than people judge one pair.
MAX_REASONS = 100
MAX_VOTES = 1000
LEVELS = ("bad", "normal", "good")


class PromptRecord(NamedTuple):
    id: str
    messages: list[Message]
    group: str


class ResponseRecord(NamedTuple):
    id: str
    prompt: str
    text: str
    author: str
    metadata: dict[str, Any]


class PairRecord(NamedTuple):
    """Two responses side by side; a vote on responses that names no pair makes one without an id."""

    id: str
    a: str
    b: str


class VoteRecord(NamedTuple):
    """One annotator's verdict on a pair: named by `pair`, or by its responses `a` and `b`. Times are ISO in UTC."""

    pair: str
    a: str
    b: str
    annotator: str
    verdict: str
    strength: int | None = None
    comment: str = ""
    reasons: Sequence[str] = ()
    left: str = ""
    created_at: str = ""
    shown_at: str = ""
    policy: str = ""
    propensity: float | None = None


class LevelRecord(NamedTuple):
    response: str
    annotator: str
    level: str
    comment: str = ""
    created_at: str = ""


Record = PromptRecord | ResponseRecord | PairRecord | VoteRecord | LevelRecord


# Caliper JSONL -----------------------------------------------------------------------------------------------

_CALIPER_FIELDS = {
    "prompt": {"type", "id", "messages", "text", "group"},
    "response": {"type", "id", "prompt", "text", "author", "metadata"},
    "pair": {"type", "id", "a", "b"},
    "vote": {
        "type", "pair", "a", "b", "annotator", "verdict", "strength", "comment", "reasons", "left", "created_at",
        "shown_at", "policy", "propensity",
    },
    "level": {"type", "response", "annotator", "level", "comment", "created_at"},
}  # fmt: skip


def parse_caliper(row: Row) -> list[Record]:
    row = given(row)
    kind = choice_of(row, "type", tuple(_CALIPER_FIELDS))
    if unknown := sorted(set(row) - _CALIPER_FIELDS[kind]):
        known = ", ".join(sorted(_CALIPER_FIELDS[kind]))
        raise RowError(
            unknown[0][:60], f"is not a field of a {kind}.", f"Known: {known}. Remove it or mend its name."
        )
    if kind == "prompt":
        if "messages" in row and row.get("text") is not None:
            raise RowError("text", "stands beside messages.", "Give the prompt either messages or text.")
        messages = (
            messages_of("messages", row["messages"])
            if "messages" in row
            else [{"role": "user", "content": text_of(row, "text")}]
        )
        return [PromptRecord(id_of(row, "id"), messages, optional(row, "group", id_of))]
    if kind == "response":
        author = optional(row, "author", id_of)
        metadata = metadata_of(row, "metadata")
        return [
            ResponseRecord(id_of(row, "id"), id_of(row, "prompt"), text_of(row, "text"), author, metadata)
        ]
    if kind == "pair":
        return [PairRecord(optional(row, "id", id_of), id_of(row, "a"), id_of(row, "b"))]
    if kind == "level":
        return [
            LevelRecord(
                id_of(row, "response"), name_of(row, "annotator"), choice_of(row, "level", LEVELS),
                comment_of(row, "comment"), time_of(row, "created_at"),
            )
        ]  # fmt: skip
    return _caliper_vote(row)


def _caliper_vote(row: Row) -> list[Record]:
    named = row.get("pair") is not None
    if named and (row.get("a") is not None or row.get("b") is not None):
        raise RowError("pair", "stands beside a and b.", "Name the pair, or its two responses, not both.")
    pair, a, b = (id_of(row, "pair"), "", "") if named else ("", id_of(row, "a"), id_of(row, "b"))
    reasons = row.get("reasons") or []
    if not isinstance(reasons, list):
        raise RowError("reasons", f"is {json_kind(reasons)}.", "Write a list of short texts.")
    if len(reasons) > MAX_REASONS:
        raise RowError(
            "reasons", f"has {len(reasons):,} reasons, of {MAX_REASONS} allowed.", "Leave some out."
        )
    reasons = [check_text("reasons", reason, limit=MAX_ID) for reason in reasons]
    policy = optional(row, "policy", id_of)
    if len(policy) > 40:
        raise RowError("policy", "is longer than 40 characters.", "Shorten it.")
    vote = VoteRecord(
        pair=pair,
        a=a,
        b=b,
        annotator=name_of(row, "annotator"),
        verdict=choice_of(row, "verdict", VERDICTS),
        strength=integer_of(row, "strength", 1, 3),
        comment=comment_of(row, "comment"),
        reasons=reasons,
        left=choice_of(row, "left", ("a", "b")) if row.get("left") else "",
        created_at=time_of(row, "created_at"),
        shown_at=time_of(row, "shown_at"),
        policy=policy,
        propensity=number_of(row, "propensity", 0, 1),
    )
    return [vote] if named else [PairRecord("", a, b), vote]


# TRL preference and hh-rlhf ----------------------------------------------------------------------------------


def parse_trl(row: Row) -> list[Record]:
    """All four shapes: with and without `prompt`, as texts and as lists of messages."""
    for field in ("chosen", "rejected"):
        if row.get(field) is None:
            raise RowError(field, "is missing.", "A preference needs chosen and rejected.")
    row = row | {field: parsed_cell(row.get(field)) for field in ("prompt", "chosen", "rejected")}
    chosen, rejected, prompt = row["chosen"], row["rejected"], row["prompt"]
    conversational = isinstance(chosen, list)
    if isinstance(chosen, list) != isinstance(rejected, list):
        raise RowError(
            "rejected",
            f"is {json_kind(rejected)}, chosen is {json_kind(chosen)}.",
            "Write both in the same way.",
        )
    if conversational:
        messages, texts = _conversational(
            prompt, messages_of("chosen", chosen), messages_of("rejected", rejected)
        )
    elif prompt is None:
        messages, texts = _implicit(text_of(row, "chosen"), text_of(row, "rejected"))
    else:
        if isinstance(prompt, list):
            messages = messages_of("prompt", prompt)
        else:
            messages = [{"role": "user", "content": text_of(row, "prompt")}]
        texts = text_of(row, "chosen"), text_of(row, "rejected")
    margin = number_of(row, "margin", -1e300, 1e300)
    comment = "" if margin is None else f"margin {margin:g}"
    return _preference("trl", messages, texts[0], texts[1], comment=comment)


def _conversational(
    prompt: Any, chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], tuple[str, str]]:
    shared: list[Message] = []
    # The last message of each is its answer, unless it isn't the assistant's.
    while chosen and rejected and chosen[0] == rejected[0]:
        if chosen[0]["role"] == "assistant" and min(len(chosen), len(rejected)) == 1:
            break
        shared.append(chosen[0])
        chosen, rejected = chosen[1:], rejected[1:]
    if isinstance(prompt, list):
        shared = messages_of("prompt", prompt) + shared
    elif prompt is not None and not shared:
        shared = [{"role": "user", "content": check_text("prompt", prompt, limit=settings.MAX_TEXT_BYTES)}]
    for field, rest in (("chosen", chosen), ("rejected", rejected)):
        if len(rest) != 1 or rest[0]["role"] != "assistant":
            remedy = "It has to end in exactly one assistant message that the other answer doesn't share."
            raise RowError(field, f"has {len(rest)} messages after the shared prompt.", remedy)
        check_text(field, rest[0]["content"], limit=settings.MAX_TEXT_BYTES)
    if not shared:
        raise RowError(
            "prompt", "is missing, and chosen and rejected share no first message.", "Add the prompt."
        )
    return shared, (chosen[0]["content"], rejected[0]["content"])


def _implicit(chosen: str, rejected: str) -> tuple[list[Message], tuple[str, str]]:
    """The shared beginning, up to a whole word, is the prompt; transcripts are taken apart by speaker."""
    if _TURN.match(chosen) and _TURN.match(rejected):
        return _transcripts(chosen, rejected)
    length = 0
    for left, right in zip(chosen, rejected, strict=False):
        if left != right:
            break
        length += 1
    # Back to a space, so that no answer begins in the middle of a word.
    while length and not chosen[length - 1].isspace():
        length -= 1
    prompt = chosen[:length].strip()
    if not prompt:
        raise RowError(
            "prompt", "is missing, and chosen and rejected share no beginning.", "Add a prompt field."
        )
    answers = chosen[length:].strip(), rejected[length:].strip()
    for field, text in zip(("chosen", "rejected"), answers, strict=True):
        check_text(field, text, limit=settings.MAX_TEXT_BYTES)
    return [{"role": "user", "content": prompt}], answers


_SPEAKERS = {"Human": "user", "Assistant": "assistant", "System": "system"}
_TURN = re.compile(r"\s*(Human|Assistant|System):")
_SPEAKER = re.compile(r"\n\n(Human|Assistant|System):")


def parse_hh(row: Row) -> list[Record]:
    chosen, rejected = text_of(row, "chosen"), text_of(row, "rejected")
    for field, text in (("chosen", chosen), ("rejected", rejected)):
        if not _TURN.match(text):
            remedy = "Write “\\n\\nHuman: …\\n\\nAssistant: …”, or import the file as TRL preference."
            raise RowError(field, "does not begin with “Human:” or “Assistant:”.", remedy)
    messages, texts = _transcripts(chosen, rejected)
    return _preference("hh", messages, *texts)


def _transcripts(chosen: str, rejected: str) -> tuple[list[Message], tuple[str, str]]:
    """The shared turns are the prompt; the answers begin where the transcripts part (and may run over turns)."""
    turns = [_SPEAKER.split("\n\n" + text.lstrip())[1:] for text in (chosen, rejected)]
    first, second = ([(t[i], t[i + 1]) for i in range(0, len(t), 2)] for t in turns)
    shared = 0
    while shared < min(len(first), len(second)) - 1 and first[shared] == second[shared]:
        shared += 1
    # An answer begins with the assistant: step back where they part at a human turn.
    while shared and not (first[shared][0] == second[shared][0] == "Assistant"):
        shared -= 1
    if not shared:
        raise RowError(
            "rejected", "shares no first turn with chosen.", "Both have to begin with the same prompt."
        )
    messages = [{"role": _SPEAKERS[speaker], "content": text.strip()} for speaker, text in first[:shared]]
    if not any(message["content"] for message in messages):
        raise RowError("chosen", "has an empty prompt.", "Give the prompt a text.")
    answers = []
    for field, rest in (("chosen", first[shared:]), ("rejected", second[shared:])):
        text = (rest[0][1] + "".join(f"\n\n{speaker}:{said}" for speaker, said in rest[1:])).strip()
        answers.append(check_text(field, text, limit=settings.MAX_TEXT_BYTES))
    return messages, (answers[0], answers[1])


def _preference(
    source: str, messages: list[Message], chosen: str, rejected: str, *, comment: str = ""
) -> list[Record]:
    """One vote, by an annotator named like the format: these formats don't say who judged."""
    if chosen == rejected:
        raise RowError("rejected", "is the same text as chosen.", "A preference needs two different answers.")
    prompt = f"{source}-{messages_digest(messages)[:16]}"
    a, b = (f"{prompt}-{short_digest(text)[:12]}" for text in (chosen, rejected))
    return [
        PromptRecord(prompt, messages, ""),
        ResponseRecord(a, prompt, chosen, "", {}),
        ResponseRecord(b, prompt, rejected, "", {}),
        PairRecord("", a, b),
        VoteRecord("", a, b, annotator={"hh": "hh-rlhf"}.get(source, source), verdict="a", comment=comment),
    ]


# PandaLM and UKPConvArg1 -------------------------------------------------------------------------------------


def parse_pandalm(row: Row) -> list[Record]:
    instruction, extra = text_of(row, "instruction"), comment_of(row, "input")
    messages = [{"role": "user", "content": f"{instruction}\n\n{extra}" if extra.strip() else instruction}]
    texts = text_of(row, "response1"), text_of(row, "response2")
    models = optional(row, "cmp_key", id_of).split("_")
    authors = (models[0], models[1]) if len(models) == 2 else ("", "")
    prompt = f"pandalm-{messages_digest(messages)[:16]}"
    a, b = (
        f"{prompt}-{short_digest(author, text)[:12]}" for author, text in zip(authors, texts, strict=True)
    )
    if a == b:
        raise RowError(
            "response2",
            "is the same answer of the same model as response1.",
            "A pair needs two different answers.",
        )
    records: list[Record] = [
        PromptRecord(prompt, messages, ""),
        ResponseRecord(a, prompt, texts[0], authors[0], {}),
        ResponseRecord(b, prompt, texts[1], authors[1], {}),
        PairRecord("", a, b),
    ]
    fields = sorted(
        (field for field in row if re.fullmatch(r"annotator\d{1,3}", field)), key=lambda name: int(name[9:])
    )
    for field in fields:
        choice = integer_of(row, field, 0, 2)
        if choice is None:
            continue
        records.append(VoteRecord("", a, b, annotator=field, verdict=("tie", "a", "b")[choice]))
    return records


def parse_ukp(row: Row) -> list[Record]:
    """Rows of pairs.jsonl (votes) and of responses.jsonl (texts). Both stances of a debate make one group."""
    topic = id_of(row, "topic")
    if "response_id" in row:
        rank = number_of(row, "rank_score", -1e9, 1e9)
        metadata = {} if rank is None else {"rank_score": rank}
        return [ResponseRecord(id_of(row, "response_id"), topic, text_of(row, "text"), "", metadata)]
    a, b = id_of(row, "response_a_id"), id_of(row, "response_b_id")
    pair = id_of(row, "pair_id")
    votes = row.get("votes")
    if not isinstance(votes, list):
        raise RowError("votes", f"is {json_kind(votes)}.", "Write a list of {annotator, choice, reason}.")
    if len(votes) > MAX_VOTES:
        raise RowError("votes", f"has {len(votes):,} votes, of {MAX_VOTES:,} allowed.", "Split the row.")
    messages = [{"role": "user", "content": text_of(row, "prompt")}]
    records: list[Record] = [
        PromptRecord(topic, messages, topic.rpartition("_")[0] or topic),
        PairRecord(pair, a, b),
    ]
    for vote in votes:
        if not isinstance(vote, dict):
            raise RowError("votes", f"holds {json_kind(vote)}.", "Write {annotator, choice, reason}.")
        verdict = choice_of(vote, "choice", ("a", "b", "tie"))
        comment = comment_of(vote, "reason")
        records.append(
            VoteRecord(pair, "", "", annotator=name_of(vote, "annotator"), verdict=verdict, comment=comment)
        )
    return records


# Which format it is ------------------------------------------------------------------------------------------

PARSERS: dict[str, Callable[[Row], list[Record]]] = {
    "caliper": parse_caliper,
    "trl": parse_trl,
    "hh-rlhf": parse_hh,
    "pandalm": parse_pandalm,
    "ukp-convarg1": parse_ukp,
}


def _is_transcript(value: Any) -> bool:
    return isinstance(value, str) and bool(_TURN.match(value))


def format_of(row: Row) -> str | None:
    """The format whose fields the row has, or None."""
    if isinstance(row.get("type"), str) and row["type"] in _CALIPER_FIELDS:
        return "caliper"
    if {"response1", "response2", "annotator1"} <= set(row):
        return "pandalm"
    if {"pair_id", "response_a_id", "votes"} <= set(row) or {"response_id", "topic", "text"} <= set(row):
        return "ukp-convarg1"
    if {"chosen", "rejected"} <= set(row):
        transcripts = (
            "prompt" not in row and _is_transcript(row["chosen"]) and _is_transcript(row["rejected"])
        )
        return "hh-rlhf" if transcripts else "trl"
    return None


def recognise(sources: Sequence[Source]) -> str:
    """The one format of all the files, from the first readable rows. Raises ImportRefused when there is none."""
    found: dict[str, str] = {}
    for source in sources:
        seen: list[str] = []
        for number, row in rows(source):
            if isinstance(row, dict):
                if name := format_of(row):
                    found[source.name] = name
                    break
                seen = seen or sorted(row)
            if number >= 50:
                break
        if source.name not in found:
            columns = (
                f"Its first row has the fields {', '.join(seen)[:200]}. "
                if seen
                else "None of its rows could be read. "
            )
            raise ImportRefused(
                f"The format of {source.name} was not recognised. {columns}"
                f"Known formats: {', '.join(PARSERS)}; the import page shows what they look like."
            )
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name} ({kind})" for name, kind in found.items())
        raise ImportRefused(f"The files are of different formats: {listed}. Import them one after the other.")
    return next(iter(found.values()))


def records(source: Source, format_name: str, tick: Tick) -> Iterator[tuple[int, list[Record] | Problem]]:
    """(row number, the row's records or why it is left out) of a file in a known format."""
    parse = PARSERS[format_name]
    for number, row in rows(source, tick):
        if isinstance(row, Problem):
            yield number, row
            continue
        try:
            yield number, parse(row)
        except RowError as error:
            yield number, Problem(source.name, number, error.field, error.message, error.remedy)
        except RecursionError:
            yield number, Problem(source.name, number, "", "is nested too deeply.", "Flatten it.")
        except (OverflowError, TypeError, ValueError) as error:
            # A value of a kind that no field check thought of costs its row, not the file.
            logger.exception("row %s of %s cannot be taken", number, source.name)
            message = f"cannot be taken ({printable(f'{type(error).__name__}: {error}')[:200]})."
            yield number, Problem(source.name, number, "", message, "Look for a value of an unusual kind.")
