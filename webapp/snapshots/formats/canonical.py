"""The canonical format: one row per judgement, nothing aggregated."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from webapp.labels.models import QualityLabel
from webapp.snapshots.columns import FLAG, INT8, JSON, NUMBER, TEXT, TIME, Schema, list_of
from webapp.snapshots.formats.base import FLAT, Choice, Format, Texts, View, messages_type
from webapp.snapshots.reading import CHUNK, Among, Judgements
from webapp.snapshots.writing import Batch, Repeated, repeated

COLUMNS = {
    "judgement_id": "the same for the same judgement, also after export and import",
    "pair_id": "id of the pair",
    "prompt_id": "id of the prompt (of response a)",
    "group": "topic, or the prompt's id: split training and test data by it",
    "messages": "the prompt's conversation",
    "tools": "the tools that the assistant was offered, JSON schemas; empty if none",
    "response_a_id": "id of response a",
    "response_a": "its text, exactly; the transcript of an answer of several messages",
    "messages_a": "its messages, where it has several or tool calls; else empty",
    "author_a": "who wrote it, usually a model",
    "response_b_id": "id of response b",
    "response_b": "its text, exactly",
    "messages_b": "its messages, as messages_a",
    "author_b": "who wrote it",
    "verdict": "a, b, tie, both_bad or skip; a and b are the responses, whatever side they stood on",
    "strength": "1 to 3, where it was given",
    "reasons": "tags: “a:TAG” and “b:TAG” are said of one response",
    "contradiction_kept": "verdict and levels contradict each other, and the annotator said that they should",
    "comment": "the annotator's comment, exactly",
    "annotator": "user name, or the name it was imported with",
    "annotator_kind": "person, imported, simulated or machine: a machine's judgements count as nobody's",
    "left": "which response stood left (first): a, b or unknown",
    "policy": "why the pair was chosen",
    "propensity": "with what probability it was chosen",
    "source": "browser, api, import, simulated or machine",
    "shown_at": "when the card was shown",
    "created_at": "when the judgement was given",
    "level_a": "the same annotator's current level of response a: bad, normal, good",
    "level_b": "the same of response b",
    "superseded": "it was corrected or taken back later",
    "retraction": "it takes an earlier one back",
}


class Canonical(View):
    def __init__(self, choice: Choice) -> None:
        super().__init__(choice)
        self.superseded = choice.superseded
        self.schema = schema(rich=choice.rich)

    def judgements(self, rows: Judgements, ids: Sequence[str]) -> Iterator[Batch]:
        texts, levels = Texts.of(rows), levels_of(rows)
        a, b = ([texts.place[pk] for pk in column] for column in (rows.a, rows.b))
        prompts = [texts.prompt_place[place] for place in a]
        answers, asked = texts.answers, texts.prompts
        text = [answer.text for answer in answers]
        turns = [answer.messages for answer in answers]
        authors = [answer.author for answer in answers]
        annotators = repeated(rows.annotator)
        who = [self.names[pk] for pk in annotators.values]
        yield {
            "judgement_id": ids,
            "pair_id": rows.pair_id,
            "prompt_id": Repeated([prompt.id for prompt in asked], prompts),
            "group": Repeated([prompt.group or prompt.id for prompt in asked], prompts),
            "messages": Repeated([prompt.messages for prompt in asked], prompts),
            "tools": Repeated([prompt.tools or None for prompt in asked], prompts),
            "response_a_id": rows.a_id,
            "response_a": Repeated(text, a),
            "messages_a": Repeated(turns, a),
            "author_a": Repeated(authors, a),
            "response_b_id": rows.b_id,
            "response_b": Repeated(text, b),
            "messages_b": Repeated(turns, b),
            "author_b": Repeated(authors, b),
            "verdict": repeated(rows.verdict),
            "strength": repeated(rows.strength),
            "reasons": _each(rows.reasons, lambda text: [str(reason) for reason in json.loads(text)]),
            "contradiction_kept": _each(rows.contradiction_kept, bool),
            "comment": repeated(rows.comment),
            "annotator": Repeated([named.name for named in who], annotators.places),
            "annotator_kind": Repeated([named.account_type for named in who], annotators.places),
            "left": _each(rows.left, _or_none),
            "policy": _each(rows.policy, _or_none),
            "propensity": rows.propensity,
            "source": repeated(rows.source),
            "shown_at": rows.shown_at,
            "created_at": rows.created_at,
            "level_a": repeated([levels.get(key) for key in zip(rows.a, rows.annotator, strict=True)]),
            "level_b": repeated([levels.get(key) for key in zip(rows.b, rows.annotator, strict=True)]),
            "superseded": _each(rows.is_current, lambda current: not current),
            "retraction": _each(rows.retraction, bool),
        }


def _each(column: Sequence[Any], change: Callable[[Any], Any]) -> Repeated:
    """A column of few values, each changed once."""
    few = repeated(column)
    return Repeated([change(value) for value in few.values], few.places)


def _or_none(text: str) -> str | None:
    return text or None


def levels_of(rows: Judgements) -> dict[tuple[int, int], str]:
    """Current levels by (response, annotator) for a batch of judgements."""
    found = (
        QualityLabel.objects.current()
        .filter(Among("response_id", (*rows.a, *rows.b)))
        .values_list("response_id", "annotator_id", "level")
        .iterator(CHUNK)
    )
    return {(response, annotator): level for response, annotator, level in found}


def schema(*, rich: bool) -> Schema:
    types = {
        **dict.fromkeys(COLUMNS, TEXT),
        **dict.fromkeys(("messages", "messages_a", "messages_b"), messages_type(rich=rich)),
        "tools": JSON,
        "strength": INT8,
        "reasons": list_of(TEXT),
        "propensity": NUMBER,
        **dict.fromkeys(("shown_at", "created_at"), TIME),
        **dict.fromkeys(("contradiction_kept", "superseded", "retraction"), FLAG),
    }
    return Schema(types.items())


CANONICAL = Format(
    "judgements",
    Canonical,
    description="""
One row per judgement, nothing aggregated. `verdict` names response a or b, whatever side it was shown on (`left`
says which stood left). `level_a` and `level_b` are the same annotator's quality levels.""",
    columns=COLUMNS,
    again="this table is for analysis and has no reader; Caliper JSONL brings every label back.",
    help="One row per judgement with both texts, the reasons, and that person's levels. Nothing is aggregated; ties, "
    "“both bad” and skips are in it.",
    file_types=FLAT,
    aggregates=False,
)
