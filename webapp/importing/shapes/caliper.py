"""Caliper JSONL: one object a line, whose `type` says what it is."""

from webapp.importing.fields import (
    MAX_ID,
    RowError,
    boolean_of,
    check_text,
    choice_of,
    comment_of,
    id_of,
    integer_of,
    metadata_of,
    name_of,
    number_of,
    optional,
    text_of,
    time_of,
)
from webapp.importing.reading import Row, json_type
from webapp.importing.shapes.making import Answer, answer_of, prompt_record
from webapp.importing.shapes.messages import messages_of, tools_of
from webapp.importing.shapes.records import (
    MAX_REASONS,
    LevelRecord,
    PairRecord,
    Record,
    ResponseRecord,
    VoteRecord,
)
from webapp.importing.shapes.tracking import ReadRow
from webapp.labels.models import LEVELS, Verdict

CALIPER_FIELDS = {
    "prompt": {"type", "id", "messages", "text", "tools", "group"},
    "response": {"type", "id", "prompt", "text", "messages", "author", "metadata"},
    "pair": {"type", "id", "a", "b"},
    "vote": {
        "type", "pair", "a", "b", "annotator", "verdict", "strength", "comment", "reasons", "left", "created_at",
        "shown_at", "policy", "propensity", "contradiction_kept",
    },
    "level": {"type", "response", "annotator", "level", "comment", "created_at"},
}  # fmt: skip
_VERDICTS = tuple(Verdict.values)


def parse_caliper(row: Row) -> list[Record]:
    record_type = choice_of(row, "type", tuple(CALIPER_FIELDS))
    known_fields = CALIPER_FIELDS[record_type]
    if not row.keys() <= known_fields and (
        unknown := sorted(
            name for name, value in row.items() if value is not None and name not in known_fields
        )
    ):
        known = ", ".join(sorted(known_fields))
        raise RowError(
            unknown[0][:60],
            f"is not a field of a {record_type}.",
            f"Known: {known}. Remove it or mend its name.",
        )
    if record_type not in ("prompt", "response") and isinstance(row, ReadRow):
        # Each of its fields is read below: nothing need be noted.
        row.read.update(row)
        row = dict(row)
    if record_type == "prompt":
        if row.get("messages") is not None and row.get("text") is not None:
            raise RowError("text", "stands beside messages.", "Give the prompt either messages or text.")
        messages = (
            messages_of("messages", row["messages"], row=row)
            if row.get("messages") is not None
            else [{"role": "user", "content": text_of(row, "text")}]
        )
        group = optional(row, "group", id_of)
        return [prompt_record("", messages, tools=tools_of(row), group=group, id=id_of(row, "id"))]
    if record_type == "response":
        author = optional(row, "author", id_of)
        metadata = metadata_of(row, "metadata")
        answer = _answer(row)
        return [
            ResponseRecord(
                id_of(row, "id"), id_of(row, "prompt"), answer.text, author, metadata, answer.messages
            )
        ]
    if record_type == "pair":
        return [PairRecord(optional(row, "id", id_of), id_of(row, "a"), id_of(row, "b"))]
    if record_type == "level":
        return [
            LevelRecord(
                id_of(row, "response"), name_of(row, "annotator"), choice_of(row, "level", LEVELS),
                comment_of(row, "comment"), time_of(row, "created_at"),
            )
        ]  # fmt: skip
    return _caliper_vote(row)


def _answer(row: Row) -> Answer:
    """A text, or messages; beside messages a text has to be what they say."""
    if row.get("messages") is None:
        return Answer(text_of(row, "text"))
    answer = answer_of("messages", row["messages"])
    if row.get("text") is not None and text_of(row, "text") != answer.text:
        raise RowError("text", "differs from what messages say.", "Leave text out.")
    return answer


def _caliper_vote(row: Row) -> list[Record]:
    named = row.get("pair") is not None
    if named and (row.get("a") is not None or row.get("b") is not None):
        raise RowError("pair", "stands beside a and b.", "Name the pair, or its two responses, not both.")
    pair, a, b = (id_of(row, "pair"), "", "") if named else ("", id_of(row, "a"), id_of(row, "b"))
    reasons = row.get("reasons") or []
    if not isinstance(reasons, list):
        raise RowError("reasons", f"is {json_type(reasons)}.", "Write a list of short texts.")
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
        verdict=choice_of(row, "verdict", _VERDICTS),
        strength=integer_of(row, "strength", 1, 3),
        comment=comment_of(row, "comment"),
        reasons=reasons,
        left=choice_of(row, "left", ("a", "b")) if row.get("left") else "",
        created_at=time_of(row, "created_at"),
        shown_at=time_of(row, "shown_at"),
        policy=policy,
        propensity=number_of(row, "propensity", 0, 1),
        contradiction_kept=bool(boolean_of(row, "contradiction_kept")),
    )
    return [vote] if named else [PairRecord("", a, b), vote]
