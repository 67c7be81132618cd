"""Prompts that a trainer sends as its policy reads them, with a chat template's marks, as conversations again.

OpenRLHF and slime send such texts. Scored as they are, a model would rate the marks, and people who are asked about
the rollouts would read them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Marks:
    """How a template marks a turn: HEAD role HEAD_END content END."""

    begin: str
    head: str
    head_end: str
    end: str
    after: str

    def turns(self, prompt: str) -> list[dict[str, Any]] | None:
        """The messages of a prompt that ends where the assistant is to speak; None if any of it is otherwise."""
        rest = prompt.removeprefix(self.begin)
        messages: list[dict[str, Any]] = []
        while True:
            if not rest.startswith(self.head):
                return None
            role, found, rest = rest.removeprefix(self.head).partition(self.head_end)
            role = _ROLES.get(role, role)
            if not found or role not in _SPEAKERS:
                return None
            content, ended, after = rest.partition(self.end)
            if not ended:
                # The answer's own beginning; a template may open and close an empty thought there.
                return messages if messages and role == "assistant" and _NO_THOUGHT.fullmatch(rest) else None
            if self.head in content:
                return None
            messages.append({"role": role, "content": content})
            rest = after.removeprefix(self.after)


_ROLES = {"model": "assistant"}
_SPEAKERS = ("system", "user", "assistant", "tool")
_NO_THOUGHT = re.compile(r"(<think>\s*(</think>\s*)?)?")
_TEMPLATES = (
    Marks("", "<|im_start|>", "\n", "<|im_end|>", "\n"),  # ChatML: Qwen and many others
    Marks("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>", ""),  # Llama 3
    Marks("<bos>", "<start_of_turn>", "\n", "<end_of_turn>", "\n"),  # Gemma
)
_ENDINGS = (*(marks.end for marks in _TEMPLATES), "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")


def untemplated(prompt: str, text: str) -> tuple[list[dict[str, Any]], str]:
    """The messages of a prompt, and the answer without the mark that ended it.

    A prompt that is not wholly of a known template is what a user said, letter by letter.
    """
    for marks in _TEMPLATES:
        if (messages := marks.turns(prompt)) is not None:
            break
    else:
        messages = [{"role": "user", "content": prompt}] if prompt else []
    for ending in _ENDINGS:
        if (bare := text.rstrip("\n")).endswith(ending):
            return messages, bare.removesuffix(ending)
    return messages, text
