"""Exports of other annotation tools: Argilla 2, Label Studio (pairwise) and Potato (pairwise).

Whoever sets up a project in these tools names its fields and questions. So answers are found by likely names
(response_1, answer2, completion_b …), and a verdict by the answer that it names.
"""

import re
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from webapp.importing.fields import RowError, comment_of, id_of, is_given, name_of, time_of
from webapp.importing.reading import Row, json_type
from webapp.importing.shapes.making import (
    Answer,
    answer_of,
    listed,
    pair_records,
    prompt_record,
    response_record,
    said,
    verdict_of,
)
from webapp.importing.shapes.messages import conversation_in
from webapp.importing.shapes.prompts import Asked, note, required
from webapp.importing.shapes.records import (
    MAX_VOTES,
    PairRecord,
    PromptRecord,
    Record,
    ResponseRecord,
    VoteRecord,
)
from webapp.importing.shapes.tracking import ReadRow, number_in, reading

_ANSWER = re.compile(
    r"(?:response|answer|completion|generation|output|candidate|reply|text|txt|item|option)s?[-_ ]?(\d{1,2}|[a-h])",
    re.IGNORECASE,
)
_TIES = ("tie", "equal", "same", "both", "no preference", "neither is better", "draw")
_BOTH_BAD = ("both_bad", "both bad", "bothbad", "tie (bothbad)", "neither", "both are bad", "none")
UNFINISHED = "answers of annotators that are drafts or discarded: left out"
NO_VERDICT = "answers of annotators that choose none of the responses: left out"
FURTHER = "verdicts of further questions that differ from the first question's: left out"
SUGGESTIONS = "suggestions of models: not used"


def answer_columns(row: Row) -> list[str]:
    """The columns that hold rival answers, in their order: chosen and rejected, left and right, or numbered ones."""
    for names in (("chosen", "rejected"), ("left", "right")):
        if all(is_given(row.get(name)) for name in names):
            return list(names)
    found: dict[str, list[str]] = {}
    for name in row:
        if (match := _ANSWER.fullmatch(name)) and is_given(row.get(name)):
            found.setdefault(name[: match.start(1)].lower(), []).append(name)
    best = max(found.values(), key=len, default=[])
    return sorted(best, key=lambda name: (len(name), name.lower())) if len(best) > 1 else []


def _verdict(value: Any, names: Sequence[str]) -> int | str | None:
    """Which of the named answers a choice chooses, or tie, or both_bad."""
    if not isinstance(value, str):
        return None
    bare = value.strip().lower()
    if bare in _BOTH_BAD:
        return "both_bad"
    if bare in _TIES:
        return "tie"
    for place, name in enumerate(names):
        suffix = (_ANSWER.fullmatch(name) or [None, ""])[1] or ""
        if bare in (name.lower(), str(place + 1), "abcdefgh"[place : place + 1], suffix.lower()):
            return place
        named = re.fullmatch(r"(?:response|answer|completion|model|option|item|text)[-_ ]?(\w{1,2})", bare)
        if named and named[1] in (str(place + 1), "abcdefgh"[place : place + 1]):
            return place
    return {"left": 0, "right": 1}.get(bare) if len(names) == 2 else None


def _project(row: Row, source: str) -> tuple[Asked, PromptRecord, list[str], list[ResponseRecord]]:
    names = answer_columns(row)
    if len(names) < 2:
        raise RowError(
            "response_1", "and its rival are not to be found.",
            "Name the columns response_1 and response_2, or choose “columns named by hand”.",
        )  # fmt: skip
    question = required(row)
    prompt = prompt_record(source, question.messages, tools=question.tools)
    answers = [answer_of(name, conversation_in(row, name)) for name in names]
    models = [_author(row, name) for name in names]
    made = [response_record(prompt, answer.by(model)) for answer, model in zip(answers, models, strict=True)]
    if len({one.id for one in made}) < len(made):
        raise RowError(names[1], "is the same text as another answer.", "A pair needs two different answers.")
    return question, prompt, names, made


def _author(row: Row, name: str) -> str:
    suffix = (_ANSWER.fullmatch(name) or [None, ""])[1] or ""
    for column in (
        f"{name}_model",
        f"model_{name}",
        *([f"model_{suffix}", f"model{suffix}"] if suffix else []),
    ):
        value = row.get(column) if column in row and column != name else None
        if isinstance(value, str) and value.strip():
            return id_of(row, column)
    return ""


# Argilla 2 ----------------------------------------------------------------------------------------------------


def parse_argilla(row: Row) -> list[Record]:
    """A record as `records.to_json` (nested) or `records.to_datasets` (flat columns) writes it."""
    row = reading(row)
    fields = row.child("fields") if isinstance(row.get("fields"), dict) else row
    _, prompt, names, made = _project(fields, "argilla")
    votes: list[VoteRecord] = []
    comments: dict[str, list[str]] = {}
    for question, answers in _responses(row).items():
        for user, value in answers:
            if (places := _ranks(value, names)) is not None:
                ranked = [(one.id, rank) for one, rank in zip(made, places, strict=True) if rank is not None]
                votes += [
                    VoteRecord("", a, b, user, verdict_of(first - second))
                    for (a, first), (b, second) in combinations(ranked, 2)
                ]
            elif (choice := _verdict(value, names)) is not None:
                votes += _choice_votes(choice, made, user)
            elif isinstance(value, str) and re.search(
                "comment|reason|explan|why|feedback|note", question, re.I
            ):
                comments.setdefault(user, []).append(value)
            else:
                row.beside.add(f"responses.{question}")
                note(row, NO_VERDICT)
    votes = _one_each(row, votes)
    votes = [vote._replace(comment="\n\n".join(comments.get(vote.annotator, []))) for vote in votes]
    silent = set(comments) - {vote.annotator for vote in votes}
    if silent:
        note(row, "comments without a verdict: left out")
    pairs = dict.fromkeys((vote.a, vote.b) for vote in votes) or dict.fromkeys(
        (a.id, b.id) for a, b in combinations(made, 2)
    )
    return [prompt, *made, *(PairRecord("", a, b) for a, b in pairs), *votes]


def _choice_votes(choice: int | str, made: list[ResponseRecord], user: str) -> list[VoteRecord]:
    """A choice of one of k is a vote for it over each other one; a tie is one of each pair."""
    if isinstance(choice, str):
        return [VoteRecord("", a.id, b.id, user, choice) for a, b in combinations(made, 2)]
    return [
        VoteRecord(
            "", made[min(choice, other)].id, made[max(choice, other)].id, user, "a" if choice < other else "b"
        )
        for other in range(len(made))
        if other != choice
    ]


def _one_each(row: Row, votes: list[VoteRecord]) -> list[VoteRecord]:
    """One verdict of each person on each pair: the first question's, where a project asks several."""
    kept: dict[tuple[str, str, str], VoteRecord] = {}
    for vote in votes:
        first = kept.setdefault((vote.a, vote.b, vote.annotator), vote)
        if first is not vote and first.verdict != vote.verdict:
            note(row, FURTHER)
    return list(kept.values())


def _responses(row: ReadRow) -> dict[str, list[tuple[str, Any]]]:
    """By question: (user, value) of what was submitted."""
    found: dict[str, list[tuple[str, Any]]] = {}
    if isinstance(row.get("responses"), dict):
        for question, answers in row["responses"].items():
            for answer in listed(f"responses.{question}", answers or [], MAX_VOTES):
                if not isinstance(answer, dict):
                    raise RowError(
                        f"responses.{question}", f"holds {json_type(answer)}.", "Write {value, user_id}."
                    )
                if answer.get("status") in ("draft", "discarded"):
                    note(row, UNFINISHED)
                    continue
                user = name_of({"user_id": answer.get("user_id") or "argilla"}, "user_id")
                found.setdefault(question, []).append((user, answer.get("value")))
        if is_given(row.get("suggestions")):
            note(row, SUGGESTIONS)
        return found
    for column in [name for name in row if name.endswith(".responses")]:
        values = row.get(column)
        users, states = row.get(f"{column}.users"), row.get(f"{column}.status")
        if not is_given(values):
            continue
        values = listed(column, values, MAX_VOTES)
        for place, value in enumerate(values):
            if isinstance(states, list) and place < len(states) and states[place] in ("draft", "discarded"):
                note(row, UNFINISHED)
                continue
            user = users[place] if isinstance(users, list) and place < len(users) else "argilla"
            question = column.removesuffix(".responses")
            found.setdefault(question, []).append((name_of({"user_id": user}, "user_id"), value))
    for column in row:
        if ".suggestion" in column and is_given(row.get(column)):
            note(row, SUGGESTIONS)
    return found


def _ranks(value: Any, names: Sequence[str]) -> list[float | None] | None:
    """Of each answer its rank: [{value, rank}, …] or {value: [...], rank: [...]}, or a bare list in order."""
    if (
        isinstance(value, dict)
        and isinstance(value.get("value"), list)
        and isinstance(value.get("rank"), list)
    ):
        if len(value["value"]) != len(value["rank"]):
            raise RowError("responses", "has a ranking of two lengths.", "Write as many ranks as values.")
        pairs = list(zip(value["value"], value["rank"], strict=True))
    elif isinstance(value, list) and value and all(isinstance(one, dict) and "value" in one for one in value):
        pairs = [(one["value"], one.get("rank", place)) for place, one in enumerate(value, start=1)]
    elif isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        pairs = list(zip(value, range(1, len(value) + 1), strict=True))
    else:
        return None
    places: list[float | None] = [None] * len(names)
    for one, rank in pairs:
        choice = _verdict(one, names)
        if isinstance(choice, int):
            places[choice] = number_in({"rank": rank}, "rank", 0, 1000)
    return places if any(place is not None for place in places) else None


# --- Label Studio ---


def parse_label_studio(row: Row) -> list[Record]:
    """A task of the JSON export: its data, and the annotations' pairwise results."""
    row = reading(row)
    data = row.child("data")
    question, _, names, made = _project(data, "label-studio")
    if len(made) != 2:
        raise RowError("data", f"holds {len(made)} answers.", "A pairwise task has two.")
    votes = []
    for place, value in enumerate(listed("annotations", row.get("annotations"), MAX_VOTES), start=1):
        name = f"annotations[{place}]"
        if not isinstance(value, dict):
            raise RowError(name, f"is {json_type(value)}.", "Write an annotation as Label Studio exports it.")
        votes += _annotation(row, name, value, names)
    a, b = (Answer(one.text, one.messages, one.author) for one in made)
    return pair_records(
        "label-studio", question.messages, a, b, votes, fields=(names[0], names[1]), tools=question.tools
    )


def _annotation(row: ReadRow, name: str, value: dict[str, Any], names: Sequence[str]) -> list[VoteRecord]:
    who = value.get("completed_by")
    if isinstance(who, dict):
        who = who.get("email") or who.get("username") or who.get("id")
    annotator = name_of(
        {f"{name}.completed_by": "label-studio" if who is None else who}, f"{name}.completed_by"
    )
    created = time_of({f"{name}.created_at": value.get("created_at")}, f"{name}.created_at")
    if value.get("was_cancelled"):
        return [said(annotator, "skip", created_at=created)]
    verdict, comments = None, []
    for result in listed(f"{name}.result", value.get("result") or [], MAX_VOTES):
        inner = result.get("value") if isinstance(result, dict) else None
        if not isinstance(inner, dict):
            raise RowError(f"{name}.result", "holds no result.", "Write {type, value}.")
        if result.get("type") == "pairwise":
            selected = inner.get("selected")
            if selected not in ("left", "right"):
                raise RowError(f"{name}.result", f"selects {str(selected)[:40]!r}.", "Write left or right.")
            side = {"left": 0, "right": 1}[selected]
            verdict = "ab"[side ^ _turned(result.get("to_name"), names)]
        elif result.get("type") == "choices" and verdict is None and isinstance(inner.get("choices"), list):
            choice = _verdict(inner["choices"][0] if len(inner["choices"]) == 1 else None, names)
            verdict = "ab"[choice] if isinstance(choice, int) else choice
        elif result.get("type") == "textarea":
            text = inner.get("text")
            comments += [str(one) for one in text] if isinstance(text, list) else [str(text)]
        else:
            row.beside.add(f"annotations[].result {str(result.get('type'))[:40]}")
    if verdict is None:
        note(row, NO_VERDICT)
        return []
    comment = comment_of({"comment": "\n\n".join(comments)}, "comment")
    return [said(annotator, verdict, comment=comment, created_at=created)]


def _turned(to_name: Any, names: Sequence[str]) -> int:
    """Whether the page showed the second column left: where its tags are named like the columns."""
    tags = [tag.strip() for tag in to_name.split(",")] if isinstance(to_name, str) else []
    return int(tags == [names[1], names[0]])


# --- Potato ---


def parse_potato(row: Row) -> list[Record]:
    """An item with its texts, somebody's annotation of one, or both in one row; the id joins them across files."""
    row = reading(row)
    key = "instance_id" if is_given(row.get("instance_id")) else "id"
    item = id_of(row, key)
    pair = f"potato-{item}" if len(item) <= 190 else item
    records = _potato_item(row, item, pair)
    labels = next(
        (row[name] for name in ("label_annotations", "annotations") if is_given(row.get(name))), None
    )
    if labels is None:
        own = {
            name: value for name, value in row.items() if isinstance(value, dict) and _potato_verdict(value)
        }
        labels = {name: row[name] for name in own} or None
    if labels is None:
        if not records:
            raise RowError("label_annotations", "is missing.", "Add it, or the item's texts.")
        return records
    if not isinstance(labels, dict):
        raise RowError("label_annotations", f"is {json_type(labels)}.", "Write {question: {selection: A}}.")
    said_in = {name: found for name, value in labels.items() if (found := _potato_verdict(value))}
    comments = [text for name, value in labels.items() if name not in said_in for text in _potato_text(value)]
    if not said_in:
        raise RowError("label_annotations", "holds no pairwise verdict.", "Write {question: {selection: A}}.")
    (verdict, strength), *further = said_in.values()
    if any(other != (verdict, strength) for other in further):
        note(row, FURTHER)
    comment = comment_of({"comment": "\n\n".join(comments)}, "comment")
    vote = VoteRecord(pair, "", "", _potato_user(row), verdict, strength=strength, comment=comment)
    return [*records, vote]


def _potato_item(row: ReadRow, item: str, pair: str) -> list[Record]:
    """The item's prompt, responses and pair, where the row has its texts."""
    values = next((row[n] for n in ("responses", "items", "text") if isinstance(row.get(n), list)), None)
    if values is None:
        names = answer_columns(row)
        if len(names) < 2:
            return []
        values = [row[name] for name in names]
    if len(values) != 2:
        raise RowError("responses", f"holds {len(values)} texts.", "A pairwise item has two.")
    question = required(row)
    prompt = prompt_record("potato", question.messages, tools=question.tools)
    made = [response_record(prompt, answer_of(f"responses[{i}]", v)) for i, v in enumerate(values, start=1)]
    if made[0].id == made[1].id:
        raise RowError("responses", "holds the same text twice.", "A pair needs two different answers.")
    return [prompt, *made, PairRecord(pair, made[0].id, made[1].id)]


def _potato_verdict(value: Any) -> tuple[str, int | None] | None:
    if isinstance(value, dict):
        if is_given(value.get("selection")):
            choice = _verdict(value["selection"], ("A", "B"))
            if choice is None:
                raise RowError("selection", f"is {str(value['selection'])[:40]!r}.", "Write A, B or tie.")
            return ("ab"[choice] if isinstance(choice, int) else choice), None
        if is_given(value.get("scale_value")):
            scale = number_in(value, "scale_value", -100, 100) or 0
            strength = abs(int(scale)) if scale == int(scale) and 1 <= abs(scale) <= 3 else None
            return verdict_of(scale), strength
        if len(value) == 1 and (choice := _verdict(next(iter(value)), ("A", "B"))) is not None:
            return ("ab"[choice] if isinstance(choice, int) else choice), None
        return None
    choice = _verdict(value, ("A", "B"))
    return None if choice is None else (("ab"[choice] if isinstance(choice, int) else choice), None)


def _potato_text(value: Any) -> list[str]:
    texts = value.values() if isinstance(value, dict) else [value]
    return [str(text) for text in texts if is_given(text)]


def _potato_user(row: ReadRow) -> str:
    """Who judged: in the row, or the folder that Potato makes for each of them."""
    for name in ("user_id", "user", "annotator"):
        if is_given(row.get(name)):
            return name_of(row, name)
    folder = row.source.replace("\\", "/").rpartition("/")[0].rpartition("/")[2]
    return name_of({"user_id": folder}, "user_id") if folder else "potato"
