"""RewardBench: a right and a wrong answer; RewardBench 2: lists of them, each right one against each wrong one."""

from typing import Any

from webapp.importing.fields import RowError, id_of, is_given, optional
from webapp.importing.reading import Row
from webapp.importing.shapes.making import Answer, answer_of, prompt_record, response_record
from webapp.importing.shapes.messages import are_messages, conversation_in, list_in
from webapp.importing.shapes.prompts import required
from webapp.importing.shapes.records import MAX_VOTES, PairRecord, Record, VoteRecord
from webapp.importing.shapes.trl import parted


def parse_rewardbench(row: Row) -> list[Record]:
    metadata: dict[str, Any] = {}
    if is_given(row.get("subset")):
        metadata["subset"] = id_of(row, "subset")
    models = {side: optional(row, f"{side}_model", id_of) for side in ("chosen", "rejected")}
    lists = [_list(row, side) for side in ("chosen", "rejected")]
    if lists[0] is None and lists[1] is None:
        messages, tools, chosen, rejected = parted(row)
        sides: list[list[Answer]] = [[chosen], [rejected]]
    else:
        question = required(row)
        messages, tools = question.messages, question.tools
        sides = []
        for side, values in zip(("chosen", "rejected"), lists, strict=True):
            if not values:
                raise RowError(side, "is empty or no list.", "Write a list of answers in both columns.")
            sides.append([answer_of(f"{side}[{i}]", one) for i, one in enumerate(values, start=1)])
    if len(sides[0]) * len(sides[1]) > MAX_VOTES:
        count = len(sides[0]) * len(sides[1])
        raise RowError("chosen", f"makes {count:,} pairs, of {MAX_VOTES:,} allowed.", "Leave answers out.")
    prompt = prompt_record("rewardbench", messages, tools=tools)
    made = [
        [response_record(prompt, answer.by(models[side], metadata)) for answer in answers]
        for side, answers in zip(("chosen", "rejected"), sides, strict=True)
    ]
    both = {one.id for one in made[0]} & {one.id for one in made[1]}
    if both:
        raise RowError("rejected", "holds an answer that chosen holds too.", "Keep it in one of the two.")
    records: list[Record] = [prompt, *{one.id: one for one in made[0] + made[1]}.values()]
    for good in {one.id: one for one in made[0]}:
        for bad in {one.id: one for one in made[1]}:
            records += [PairRecord("", good, bad), VoteRecord("", good, bad, "rewardbench", "a")]
    return records


def _list(row: Row, side: str) -> list[Any] | None:
    """The answers of a column that is a list of them; None where it is one answer."""
    value = conversation_in(row, side)
    if isinstance(value, str) and value.lstrip().startswith("["):
        found = list_in(side, value) if getattr(row, "table", False) else None
        value = found if isinstance(found, list) else value
    return value if isinstance(value, list) and not are_messages(value) else None
