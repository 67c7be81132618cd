"""TRL preference: chosen and rejected, with the prompt beside them or inside, as texts or as messages."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from webapp.labels.models import Verdict
from webapp.snapshots.columns import JSON, TEXT, Schema
from webapp.snapshots.formats.base import (
    FLAT,
    Answer,
    Choice,
    Format,
    Messages,
    PromptText,
    Texts,
    View,
    decided,
    messages_type,
    of_one_prompt,
)
from webapp.snapshots.formats.transcripts import Flattened, answered, asked
from webapp.snapshots.reading import Judgements
from webapp.snapshots.writing import Batch, Repeated

PREFERRED = frozenset({Verdict.A.value, Verdict.B.value})


class Shape(NamedTuple):
    """How a prompt and an answer are written; without a prompt column the answer holds it."""

    prompt: Callable[[PromptText], Any] | None
    answer: Callable[[Answer], Any]
    conversational: bool


def _whole(answer: Answer) -> str:
    return asked(answer.prompt) + answered(answer)


def _messages(prompt: PromptText) -> Messages:
    return prompt.messages


def _turns(answer: Answer) -> Messages:
    return answer.turns


def _dialogue(answer: Answer) -> Messages:
    return answer.prompt.messages + answer.turns


SHAPES = {
    "trl-explicit": Shape(asked, answered, False),
    "trl-implicit": Shape(None, _whole, False),
    "trl-conversational": Shape(_messages, _turns, True),
    "trl-conversational-implicit": Shape(None, _dialogue, True),
}


class Preferences(View):
    """Verdicts for one side, per vote or per pair."""

    def __init__(self, choice: Choice, shape: Shape) -> None:
        super().__init__(choice)
        self.shape = shape
        dtype = messages_type(rich=choice.rich) if shape.conversational else TEXT
        names = ["prompt"] if shape.prompt else []
        columns = [(name, dtype) for name in (*names, "chosen", "rejected")]
        self.tools = shape.conversational and choice.rich
        if self.tools:
            columns.append(("tools", JSON))
        self.schema = Schema(columns)

    def judgements(self, rows: Judgements, ids: Sequence[str]) -> Iterator[Batch]:
        found = decided(rows, self.choice.aggregation, self.left_out)
        found = of_one_prompt(rows, found, PREFERRED, self.left_out)
        if not found:
            return
        texts = Texts(pk for one in found for pk in (rows.a[one.row], rows.b[one.row]))
        sides = [(texts.place[rows.a[one.row]], texts.place[rows.b[one.row]]) for one in found]
        chosen = [
            side if one.verdict == Verdict.A else side[::-1] for one, side in zip(found, sides, strict=True)
        ]
        prompts = [texts.prompt_place[side[0]] for side in chosen]
        count_same(texts, chosen, self.changed)
        if not self.shape.prompt:
            turns = [answer.turns for answer in texts.answers]
            self.changed["same first turn"] += sum(_share(turns[a], turns[b]) for a, b in chosen)
        if not self.shape.conversational:
            Flattened(texts).count(self.changed, chosen)
        written = [self.shape.answer(answer) for answer in texts.answers]
        batch: Batch = {}
        if self.shape.prompt:
            batch["prompt"] = Repeated([self.shape.prompt(prompt) for prompt in texts.prompts], prompts)
        batch["chosen"] = Repeated(written, [first for first, _ in chosen])
        batch["rejected"] = Repeated(written, [second for _, second in chosen])
        if self.tools:
            batch["tools"] = Repeated([prompt.tools or None for prompt in texts.prompts], prompts)
        yield batch


def _share(first: Messages, second: Messages) -> bool:
    """Whether a reader takes the answers' first turn for the prompt's last, since both begin with it."""
    return min(len(first), len(second)) > 1 and first[0] == second[0]


def count_same(texts: Texts, sides: Sequence[tuple[int, int]], changed: Counter[str]) -> None:
    """Rows whose two answers nobody can tell apart: a preference between them is refused by importers."""
    said = [(answer.text, answer.messages) for answer in texts.answers]
    changed["same answers"] += sum(said[first] == said[second] for first, second in sides)


_AGAIN = (
    "prompts, responses and which of two is preferred, as one vote of an annotator named “trl” for each pair. Who "
    "judged, strength, reasons, comments, times, levels, ids and models' names have no place here. Of several votes on "
    "one pair the first counts; one that contradicts it is refused by its row."
)
_PLACES = {
    "prompt": "what was asked",
    "chosen": "the preferred answer",
    "rejected": "the other answer",
}
TOOLS = {
    "tools": "JSON schemas of the tools that were offered; only in projects whose conversations use tools"
}


def _format(name: str, description: str, help: str) -> Format:
    shape = SHAPES[name]
    columns = {key: words for key, words in _PLACES.items() if shape.prompt or key != "prompt"}
    return Format(
        name,
        lambda choice: Preferences(choice, shape),
        description=description,
        columns=columns | (TOOLS if shape.conversational else {}),
        again=_AGAIN,
        help=help,
        file_types=("parquet", "jsonl") if shape.conversational else FLAT,
    )


PREFERENCES = (
    _format(
        "trl-explicit",
        """
TRL preference, standard, explicit prompt. `prompt` is a transcript that ends in “\\n\\nAssistant:”, and the answers
begin with the blank after it: prompt + chosen is exactly `chosen` of the implicit format.""",
        "For TRL's trainers: the prompt as a transcript, and both answers. Prompt and answer put together are the "
        "dialogue.",
    ),
    _format(
        "trl-implicit",
        """
TRL preference, standard, implicit prompt: both texts are whole transcripts (“\\n\\nHuman: … \\n\\nAssistant: …”)
with the same beginning.""",
        "For TRL's RewardTrainer: two whole transcripts with the same beginning, as hh-rlhf has them.",
    ),
    _format(
        "trl-conversational",
        """
TRL preference, conversational, explicit prompt: lists of {role, content} messages, with tool calls where there are.""",
        "The prompt and both answers as messages, with tool calls and tools.",
    ),
    _format(
        "trl-conversational-implicit",
        """
TRL preference, conversational, implicit prompt: lists of {role, content} messages with the same beginning, with tool
calls where there are.""",
        "Two whole dialogues as messages, with tool calls and tools.",
    ),
)
