"""What every export format is made of: its description, the view that makes its rows, the texts of a batch.

A view watches the labels pass by while the snapshot is written (webapp.snapshots.services.Watch) and answers with
batches of its columns. Labels that have no place in a format are counted in `left_out`, rows whose texts could only be
written in another way in `changed`; the report, the page and the data card say both. Nothing is dropped silently.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.db.models import Q, TextField
from django.db.models.functions import Cast

from webapp.corpus.conversations import Message
from webapp.corpus.models import Project, Prompt, Response
from webapp.labels.models import Verdict
from webapp.labels.names import Named, annotator_names
from webapp.snapshots.columns import JSON, TEXT, Kind, Schema, list_of, struct_of
from webapp.snapshots.models import Export
from webapp.snapshots.reading import CHUNK, Among, Judgements, Levels, json_text
from webapp.snapshots.writing import Batch

Row = dict[str, Any]
Messages = list[Message]
VOTE, MAJORITY = Export.Aggregation.VOTE, Export.Aggregation.MAJORITY


@dataclass(frozen=True)
class Choice:
    """What somebody asked for, and what all views need to know of the project."""

    project: Project
    aggregation: str = MAJORITY
    superseded: bool = False
    version: str = ""
    names: dict[int, Named] = field(default_factory=dict)
    # Whether some conversation holds more than roles and texts: names, tool calls, tools.
    rich: bool = False


def choice_of(project: Project, **chosen: Any) -> Choice:
    """A choice, with what is read from the database for it."""
    return Choice(project=project, names=annotator_names(project), rich=_is_rich(project), **chosen)


def _is_rich(project: Project) -> bool:
    keys = ('"name":', '"tool_calls":', '"tool_call_id":')
    holds = Q(*[("said__contains", key) for key in keys], _connector=Q.OR)
    prompts, responses = project.prompts, project.responses.filter(messages__isnull=False)
    return (
        prompts.exclude(tools=[]).exists()
        or prompts.annotate(said=Cast("messages", TextField())).filter(holds).exists()
        or responses.annotate(said=Cast("messages", TextField())).filter(holds).exists()
    )


class View:
    """The rows of one format: `begin`, then all judgements, then all levels, then `end`."""

    # A Schema; None: JSON lines of several kinds.
    schema: Any = None

    def __init__(self, choice: Choice) -> None:
        self.choice, self.project, self.names = choice, choice.project, choice.names
        self.left_out: Counter[str] = Counter()
        self.changed: Counter[str] = Counter()
        # Further lines of the data card.
        self.notes: list[str] = []

    def begin(self) -> Iterator[Any]:
        yield from ()

    def judgements(self, rows: Judgements, ids: Sequence[str]) -> Iterator[Any]:
        yield from ()

    def levels(self, rows: Levels) -> Iterator[Any]:
        yield from ()

    def end(self) -> Iterator[Any]:
        yield from ()


@dataclass(frozen=True)
class Format:
    """A format as the page, the command and the data card describe it."""

    name: str
    view: Callable[[Choice], View]
    # For the data card: what it is, its columns, and what an import of it gives.
    description: str
    columns: dict[str, str]
    again: str
    # For the page: one sentence.
    help: str
    file_types: tuple[str, ...] = ("parquet", "jsonl")
    # Whether votes are gathered: one row per vote or per pair.
    aggregates: bool = True
    data_file: str = ""
    # Whether its rows come of the labels that pass by alone, so that those of held-out prompts can lie apart.
    divides: bool = True
    # Further choices of a project, by name, for formats that need one.
    versions: Callable[[Project], list[tuple[str, str]]] | None = None

    @property
    def label(self) -> str:
        return str(Export.Format(self.name).label)


FLAT = ("parquet", "jsonl", "csv")
FORMATS: dict[str, Format] = {}


def register(*formats: Format) -> None:
    """Apps above this one add theirs when they are loaded (webapp.ratings: predictions)."""
    FORMATS.update({made.name: made for made in formats})


# --- Texts ---


class PromptText(NamedTuple):
    id: str
    group: str
    messages: Messages
    tools: list[Any]


class Answer(NamedTuple):
    """A response; `messages` is None where the text is all there is."""

    id: str
    text: str
    author: str
    prompt: PromptText
    messages: Messages | None

    @property
    def turns(self) -> Messages:
        return self.messages or [{"role": "assistant", "content": self.text}]


class Texts:
    """Some responses with their prompts, each read and parsed once. `place[pk]` is a response's place in `answers`."""

    def __init__(self, pks: Iterable[int]) -> None:
        rows = Response.objects.filter(Among("pk", pks)).values_list(
            "pk", "external_id", "text", "author", "prompt_id", json_text("messages")
        )
        found = list(rows.iterator(CHUNK))
        prompts = {
            pk: PromptText(id, group, json.loads(messages), json.loads(tools))
            for pk, id, group, messages, tools in Prompt.objects.filter(
                Among("pk", (row[4] for row in found))
            )
            .values_list("pk", "external_id", "group", json_text("messages"), json_text("tools"))
            .iterator(CHUNK)
        }
        self.prompts = list(prompts.values())
        at = {pk: place for place, pk in enumerate(prompts)}
        self.place: dict[int, int] = {}
        self.answers: list[Answer] = []
        self.prompt_place: list[int] = []
        for pk, id, text, author, prompt, messages in found:
            self.place[pk] = len(self.answers)
            self.prompt_place.append(at[prompt])
            turns = json.loads(messages) if messages else None
            self.answers.append(Answer(id, text, author, prompts[prompt], turns))

    @classmethod
    def of(cls, rows: Judgements) -> "Texts":
        return cls((*rows.a, *rows.b))


def uses_tools(messages: Iterable[Message]) -> bool:
    return any(message["role"] == "tool" or set(message) - {"role", "content"} for message in messages)


# --- Types ---


def messages_type(*, rich: bool) -> Kind:
    """A conversation: {role, content}, or JSON objects where messages may hold tool calls and the like."""
    return list_of(JSON if rich else struct_of(role=TEXT, content=TEXT))


# --- Votes ---


class Decided(NamedTuple):
    """A verdict for one row of an export: the row of the judgements that it begins with, and all who gave it."""

    row: int
    verdict: str
    voters: Sequence[int]


def decided(rows: Judgements, aggregation: str, left_out: Counter[str]) -> list[Decided]:
    """One verdict per vote or per pair. Skips, and pairs without a majority, are counted in `left_out`."""
    if aggregation == VOTE:
        left_out[Verdict.SKIP] += rows.verdict.count(Verdict.SKIP)
        return [
            Decided(row, verdict, (row,))
            for row, verdict in enumerate(rows.verdict)
            if verdict != Verdict.SKIP
        ]
    found = []
    first, count = 0, len(rows.pair)
    while first < count:
        last = first + 1
        while last < count and rows.pair[last] == rows.pair[first]:
            last += 1
        verdict = majority_verdict(rows.verdict[first:last])
        if verdict is None:
            left_out[Verdict.SKIP] += 1
        elif verdict == "no majority":
            left_out[verdict] += 1
        else:
            voters = tuple(row for row in range(first, last) if rows.verdict[row] == verdict)
            found.append(Decided(first, verdict, voters))
        first = last
    return found


def majority_verdict(verdicts: Iterable[str]) -> str | None:
    """The verdict more people gave than any other, "no majority" if two share the first place, None if all skipped."""
    counts = Counter(verdict for verdict in verdicts if verdict != Verdict.SKIP).most_common(2)
    if not counts:
        return None
    return "no majority" if len(counts) == 2 and counts[0][1] == counts[1][1] else counts[0][0]


def of_one_prompt(
    rows: Judgements, found: Iterable[Decided], verdicts: frozenset[str], left_out: Counter[str]
) -> list[Decided]:
    """Those whose verdict has a place in the format and whose responses answer one prompt."""
    kept = []
    for one in found:
        if one.verdict not in verdicts:
            left_out[one.verdict] += 1
        elif rows.prompt_a[one.row] != rows.prompt_b[one.row]:
            left_out["different prompts"] += 1
        else:
            kept.append(one)
    return kept


def batch_of(rows: list[Row], schema: Schema) -> Batch:
    """Rows as columns, for views whose rows are few or differ one from the other."""
    return {name: [row[name] for row in rows] for name in schema.names}
