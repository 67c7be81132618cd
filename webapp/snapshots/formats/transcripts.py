r"""Conversations as one text, in the manner of hh-rlhf, and what such a text cannot tell.

A turn is "\n\nHuman: " or "\n\nAssistant: " ("System", "Tool") and what was said. A transcript that ends in
"\n\nAssistant:" waits for an answer, which then begins with the blank: so the prompt of an explicit pair and either
of its answers are, put together, exactly the transcript of the implicit one.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from webapp.corpus.conversations import SPEAKERS, answer_text, spoken
from webapp.snapshots.formats.base import Answer, Messages, PromptText, Texts, uses_tools

# What webapp.importing.shapes.transcripts takes for a turn; a CR at the end joins the mark behind it.
_NAMES = "|".join(SPEAKERS.values())
_START = re.compile(rf"\s*(?:{_NAMES}):")
_MARK = re.compile(rf"(?:\r?\n){{2}}(?:{_NAMES}):|\r\Z")
ANSWER = "\n\nAssistant:"


def transcript(messages: Messages) -> str:
    return "".join(f"\n\n{SPEAKERS[message['role']]}: {spoken(message)}" for message in messages)


def asked(prompt: PromptText) -> str:
    """The prompt with the mark behind which the answer stands."""
    return transcript(prompt.messages) + ANSWER


def answered(answer: Answer) -> str:
    """The answer as it follows the mark: a blank, then its text (further turns behind their speakers)."""
    return " " + (answer_text(answer.messages) if answer.messages else answer.text)


def prompt_text(prompt: PromptText, changed: Counter[str]) -> str:
    """A prompt as a plain text: a lone user message as it is, anything longer as a transcript, which is counted."""
    messages = prompt.messages
    if uses_tools(messages) or prompt.tools:
        changed["tools as text"] += 1
    if len(messages) == 1 and messages[0]["role"] == "user":
        text = spoken(messages[0])
        changed["ambiguous"] += bool(_START.match(text))
        return text
    changed["turns as text"] += 1
    return transcript(messages)


_STEER = {"user": "User", "assistant": "Assistant"}
_STEER_MARK = re.compile(r"<extra_id_1>(?:User|Assistant)\n")


def marked(prompt: PromptText, changed: Counter[str]) -> str:
    """A prompt as HelpSteer2 writes it: the first user turn as it is, the others behind marks of their own."""
    first, *rest = prompt.messages
    simple = first["role"] == "user" and all(turn["role"] in _STEER for turn in rest)
    if not rest or not simple or uses_tools(prompt.messages) or prompt.tools:
        text = prompt_text(prompt, changed)
        changed["ambiguous"] += bool(_STEER_MARK.search(text))
        return text
    changed["ambiguous"] += any(
        _STEER_MARK.search(spoken(turn)) or spoken(turn).endswith("<extra_id_1>") for turn in prompt.messages
    ) or bool(_START.match(spoken(first)))
    return spoken(first) + "".join(f"\n<extra_id_1>{_STEER[turn['role']]}\n{spoken(turn)}" for turn in rest)


def ambiguous_answers(prompt: str, first: str, second: str) -> bool:
    """Whether a reader of plain texts may take something off both answers."""
    both = first, second
    return all(text.startswith(prompt) for text in both) or all(map(_START.match, both))


class Flattened:
    """Counts the rows of text formats that a reader cannot take apart as they were."""

    def __init__(self, texts: Texts) -> None:
        self.prompts = [_flat(prompt.messages, tools=prompt.tools) for prompt in texts.prompts]
        # Further turns of an answer are marks that a reader finds again.
        self.answers = [_flat(answer.turns) for answer in texts.answers]
        self.several = [answer.messages is not None for answer in texts.answers]
        self.prompt_place = texts.prompt_place

    def count(self, changed: Counter[str], rows: Iterable[Sequence[int]]) -> None:
        """`rows`: the places of each row's answers."""
        for places in rows:
            said = [self.prompts[self.prompt_place[places[0]]], *(self.answers[place] for place in places)]
            changed["tools as text"] += any(uses for uses, _ in said)
            changed["ambiguous"] += any(ambiguous for _, ambiguous in said)
            changed["answer as text"] += any(self.several[place] for place in places)


def _flat(messages: Messages, tools: Sequence[Any] = ()) -> tuple[bool, bool]:
    """Whether tools are used, and whether a text holds a speaker's mark."""
    texts = [spoken(turn) for turn in messages]
    return bool(tools) or uses_tools(messages), any(
        _MARK.search(text) or _START.match(text) for text in texts
    )
