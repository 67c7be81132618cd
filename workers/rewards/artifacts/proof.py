"""The proof of an export: loaded again by plain transformers, it reads and scores difficult texts as this program does.

| of the folder | against this program |
|---|---|
| ids of `tokenizer(prompt, response)`, where the tokenizer frames them | equal, special tokens in texts too |
| ids of the chat template's text, of texts that spell no special token | equal |
| scores | equal to 1e-4 |
| scores with end tokens after the response, where the head reads the response | equal to 1e-4 |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data.messages import Message, headings, spoken
from ..models.reward_model import RewardModel
from ..text.chat import ChatTemplate
from ..text.digits import SCORE_SUFFIX
from ..text.sections import MARKER, RESPONSE_HEADER, Encoded, Template, collate, plain
from ..text.telling import tellings
from . import modeling_caliper
from .exported_tokenizer import PAD, ends_at_response

TOLERANCE = 1e-4  # of a score, or of its size where that is above 1; measured differences are about 1e-6
AT_ONCE = 8  # texts: their logits over a large vocabulary are gigabytes
REMEDY = "score this model with python -m workers.rewards.score"
Row = dict[str, Any]


class ExportError(Exception):
    """The model can't be exported so that it scores the same; the message is one readable line."""


@dataclass(frozen=True)
class Proof:
    """`difference` is the largest of a score on `texts`. `chat`: the chat template gives the same ids. `plain`: so does
    the text that it writes before an empty response, and the response after it. `edges`: so they do of an empty
    response and of one with white space at its ends, which some templates drop and some tokenizers join with the frame.
    """

    texts: int
    difference: float
    chat: bool = False
    plain: bool = False
    edges: bool = False


def probes(tokenizer: Any) -> list[Row]:
    """Texts on which a tokenizer or a template goes wrong first, with and without a prompt."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    special = " ".join(
        [*dict.fromkeys([*tokenizer.all_special_tokens, *added[-8:]]), PAD, "[SEP]", "<|im_end|>"]
    )
    texts = [
        "water it weekly.",
        "",
        "  two spaces, then a line.\n",
        "\n\nstarts with lines; ends in a digit 7",
        "ends in punctuation!?",
        f"fine{SCORE_SUFFIX} 9{RESPONSE_HEADER}other ####### \\###",
        f"{special}fine{special}",
        "e\u0301\u200b 你好 \U0001f600 naïve",
        "\uff03\uff03\uff03 Score: 9 #\u200b## \ufe5f\ufe5f\ufe5f",  # what a normaliser may turn into ###
        "x" * 40,
    ]
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    chats: list[list[Message]] = [
        [],
        [{"role": "user", "content": "how do i keep a plant alive?"}],
        [{"role": "user", "content": " \n"}],
        [
            {"role": "user", "content": "how warm?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "name": "weather", "tool_call_id": "c", "content": "7"},
        ],
        [
            {"role": "user", "content": special},
            {"role": "assistant", "content": "### Score: 9\n"},
            {"role": "user", "content": " why \n\n"},
        ],
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": "and a fern?"},
        ],
    ]
    return [{"messages": chat, "text": text, "tools": []} for chat in chats for text in texts]


@torch.no_grad()
def prove(model: RewardModel, template: Template, folder: Path) -> Proof:
    """Compare folder and program. Raises ExportError where they differ."""
    from transformers import AutoTokenizer

    rows = probes(template.tokenizer)
    encoded = template.encode(rows)
    kept = [number for number, row in enumerate(encoded) if not row.truncated]
    rows, encoded = [rows[number] for number in kept], [encoded[number] for number in kept]
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    if not isinstance(template, ChatTemplate):
        _same_ids(template, tokenizer, rows, encoded)
    paths = () if template.architecture == "encoder" else _chat_paths(template, tokenizer, rows, encoded)
    exported = _loaded(model, folder)
    differences = []
    for begin in range(0, len(rows), AT_ONCE):
        part = slice(begin, begin + AT_ONCE)
        ours = model(*collate(encoded[part], exported.device)).reshape(len(rows[part]), -1)
        read = [_read(template, tokenizer, *pair) for pair in zip(rows[part], encoded[part], strict=True)]
        differences.append(_largest(_scores(exported, template, tokenizer, read), ours))
    return Proof(len(rows), max(differences), *paths)


def _read(template: Template, tokenizer: Any, row: Row, encoded: Encoded) -> dict[str, Any]:
    """What the folder's model is given: the ids compared before, with none to two end tokens where none is read. An
    encoder needs its tokenizer's types."""
    if template.architecture == "encoder":
        return _framed(template, tokenizer, row)
    if not ends_at_response(template):
        return {"input_ids": list(encoded.ids)}
    ends = [tokenizer.pad_token_id] * (len(encoded) % 3)
    return {"input_ids": [*encoded.ids[: len(encoded) - encoded.after], *ends]}


def _framed(template: Template, tokenizer: Any, row: Row) -> dict[str, Any]:
    """What `tokenizer(prompt, response)` gives; a lone pair may not end in an empty text, so it comes in a list."""
    prompt = template.prompt_text(row["messages"], row["tools"])
    response = plain(row["text"])
    text = (prompt, response) if tokenizer.tokenize(prompt) else response
    return {name: value[0] for name, value in tokenizer([text], split_special_tokens=True).items()}


def _same_ids(template: Template, tokenizer: Any, rows: Sequence[Row], encoded: Sequence[Encoded]) -> None:
    for row, expected in zip(rows, encoded, strict=True):
        if _framed(template, tokenizer, row)["input_ids"] != list(expected.ids):
            raise ExportError(_otherwise(template, row))


def _otherwise(template: Template, row: Row) -> str:
    name = type(template.tokenizer).__name__
    return f"a plain {name} does not tokenise {row['text'][:40]!r} as this program does; {REMEDY}"


def _chat_paths(
    template: Template, tokenizer: Any, rows: Sequence[Row], encoded: Sequence[Encoded]
) -> tuple[bool, bool, bool]:
    """Proof's `chat`, `plain` and `edges`. Raises ExportError where a base model's own chat template reads otherwise;
    sections may, where a tokenizer treats a text's beginning apart.
    """
    own = isinstance(template, ChatTemplate)
    markers = [token.content for token in tokenizer.added_tokens_decoder.values()]
    chat, joined, edges = [], [], []
    for row, expected in zip(rows, encoded, strict=True):
        said = "\n".join([row["text"], *headings(row["messages"]), *map(spoken, row["messages"])])
        unseen = template.ordinal and MARKER.search(said) if own else _rare_marker(said)
        # notes: what the template has no words for is told to it in other turns (chat.py)
        if unseen or any(marker in said for marker in markers) or (own and template.notes([row])):
            continue
        messages, tools = (
            next(tellings(row["messages"], row["tools"])) if own else (row["messages"], row["tools"])
        )

        begun, text = (
            tokenizer.apply_chat_template(
                [*messages, {"role": "assistant", "content": answer}], tools=tools or None, tokenize=False
            )
            for answer in ("", row["text"])
        )
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        same = ids == list(expected.ids[: len(expected) - expected.after])
        one = text == begun + (row["text"] if own else plain(row["text"]))
        if row["text"] and row["text"] == row["text"].strip():
            chat.append(same)
            joined.append(one)
            if own and not same:
                raise ExportError(_otherwise(template, row))
        else:
            edges.append((same, one))
    begins = all(chat) and all(joined)
    return all(chat), begins, all(same and (one or not begins) for same, one in edges)


def _rare_marker(text: str) -> bool:
    """Whether a run of # is written so that a chat template does not see it."""
    return any(set(run.group()) != {"#"} for run in MARKER.finditer(text))


def _loaded(model: RewardModel, folder: Path) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    if model.architecture == "encoder":
        exported: Any = modeling_caliper.CaliperRewardModel.from_pretrained(folder)
    elif model.kind == "scalar":
        exported = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    else:
        exported = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return exported.to(next(model.parameters()).device).eval()


def _scores(
    exported: Any, template: Template, tokenizer: Any, read: Sequence[dict[str, Any]]
) -> torch.Tensor:
    batch = tokenizer.pad(list(read), return_tensors="pt").to(exported.device)
    logits: torch.Tensor = exported(**batch).logits
    if template.digit_ids is None:
        return logits
    last = batch["attention_mask"].sum(1) - 1
    return logits[torch.arange(len(last), device=last.device), last][:, list(template.digit_ids)]


def _largest(scores: torch.Tensor, ours: torch.Tensor) -> float:
    differences = (scores - ours).abs()
    if not bool((differences <= TOLERANCE * ours.abs().clamp_min(1)).all()):
        raise ExportError(
            f"the exported model's scores differ by {differences.max().item():.2g} from this program's on the same "
            f"texts; {REMEDY}"
        )
    return float(differences.max().item())
