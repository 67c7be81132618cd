"""Caliper JSONL: prompts, responses, pairs, current votes and levels as import lines (webapp/importing/FORMATS.md)."""

import json
from collections.abc import Iterator, Sequence
from json.encoder import encode_basestring as quote
from typing import Any

from webapp.snapshots.formats.base import Format, View
from webapp.snapshots.reading import BATCH, CHUNK, Judgements, Levels, by_bytes, chunks


class Caliper(View):
    def begin(self) -> Iterator[list[str]]:
        by_id = by_bytes("external_id")
        prompts = self.project.prompts.order_by(by_id).values_list(
            "external_id", "messages", "tools", "group"
        )
        for chunk in chunks(prompts.iterator(CHUNK), BATCH):
            yield [
                _line(type="prompt", id=id, messages=messages, tools=tools, group=group)
                for id, messages, tools, group in chunk
            ]
        responses = self.project.responses.order_by(by_id).values_list(
            "external_id", "prompt__external_id", "text", "messages", "author", "metadata"
        )
        for chunk in chunks(responses.iterator(CHUNK), BATCH):
            yield [
                _line(
                    type="response", id=id, prompt=prompt, text=None if messages else text, messages=messages,
                    author=author, metadata=metadata,
                )
                for id, prompt, text, messages, author, metadata in chunk
            ]  # fmt: skip
        pairs = self.project.pairs.order_by(by_id).values_list(
            "external_id", "response_a__external_id", "response_b__external_id"
        )
        for chunk in chunks(pairs.iterator(CHUNK), BATCH):
            yield [_line(type="pair", id=id, a=a, b=b) for id, a, b in chunk]

    def judgements(self, rows: Judgements, ids: Sequence[str]) -> Iterator[list[str]]:
        names = {pk: quote(named.name) for pk, named in self.names.items()}
        yield [
            f'{{"type": "vote", "pair": {quote(pair)}, "annotator": {names[who]}, "verdict": "{verdict}"'
            f'{_more("strength", strength)}{_more("comment", comment)}{_reasons(reasons)}'
            f'{_KEPT[kept]}{_more("left", left)}, "created_at": "{created_at}"'
            f'{_more("shown_at", shown_at)}{_more("policy", policy)}{_more("propensity", propensity)}}}\n'
            for pair, who, verdict, strength, comment, reasons, kept, left, created_at, shown_at, policy, propensity
            in zip(
                rows.pair_id, rows.annotator, rows.verdict, rows.strength, rows.comment, rows.reasons,
                rows.contradiction_kept, rows.left, rows.created_at, rows.shown_at, rows.policy, rows.propensity,
                strict=True,
            )
        ]  # fmt: skip

    def levels(self, rows: Levels) -> Iterator[list[str]]:
        yield [
            _line(
                type="level", response=response, annotator=self.names[who].name, level=level, comment=comment,
                created_at=created_at,
            )
            for response, _, who, level, comment, created_at in zip(*rows, strict=True)
        ]  # fmt: skip


_KEPT = ("", ', "contradiction_kept": true')


def _more(name: str, value: Any) -> str:
    """A further field, unless it is empty."""
    if value is None or value == "":
        return ""
    return f', "{name}": {quote(value) if isinstance(value, str) else repr(value)}'


def _reasons(text: str) -> str:
    return "" if text == "[]" else f', "reasons": {_dump([str(reason) for reason in json.loads(text)])}'


def _line(**fields: Any) -> str:
    """A line without its empty fields."""
    return _dump({name: value for name, value in fields.items() if value not in (None, "", [], {})}) + "\n"


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


CALIPER = Format(
    "caliper",
    Caliper,
    divides=False,
    description="""
Caliper JSONL: prompts, responses, pairs, votes and levels, one object per line. Corrected and retracted labels are not
in it.""",
    columns={
        "type": "prompt, response, pair, vote or level; it says what the other fields are, as the import page shows",
    },
    again="every prompt, response, pair, vote and level comes back as it was, with the same snapshot digest.",
    help="Prompts, responses, pairs, votes and levels. Another Caliper project can import it, and then has the same "
    "labels.",
    file_types=("jsonl",),
    aggregates=False,
    data_file="caliper.jsonl",
)
