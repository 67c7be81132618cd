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
from ..text.digits import SCORE_SUFFIX
from ..text.sections import MARKER, RESPONSE_HEADER, Encoded, Template, collate, plain
from . import modeling_caliper
from .exported_tokenizer import PAD, ends_at_response, is_chat

TOLERANCE = 1e-4  # of a score, or of its size where that is above 1; measured differences are about 1e-6
REMEDY = "score this model with python -m workers.rewards.score"
Row = dict[str, Any]


class ExportError(Exception):
    """The model can't be exported so that it scores the same; the message is one readable line."""


@dataclass(frozen=True)
class Proof:
    """`difference` is the largest of a score on `texts`. `chat`: the chat template gives the same ids. `plain`: so do
    the text that it begins with add_generation_prompt and the response after it."""

    texts: int
    difference: float
    chat: bool = False
    plain: bool = False


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
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    rows = probes(template.tokenizer)
    encoded = template.encode(rows)
    kept = [number for number, row in enumerate(encoded) if not row.truncated]
    rows, encoded = [rows[number] for number in kept], [encoded[number] for number in kept]
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
    if not is_chat(template):
        _same_ids(template, tokenizer, rows, encoded)
    exported = _loaded(model, folder)
    device = next(model.parameters()).device
    ours = model(*collate(encoded, device)).reshape(len(rows), -1)
    # an encoder's types are its tokenizer's, compared above
    read = [_framed(template, tokenizer, row) for row in rows] if model.architecture == "encoder" else None
    scores = _scores(exported, template, tokenizer, read or [{"input_ids": list(row.ids)} for row in encoded])
    difference = _largest(scores, ours)
    if model.architecture == "encoder":
        return Proof(len(rows), difference)
    chat, joined = _chat_path(template, tokenizer, rows, encoded)
    if ends_at_response(template):
        ends = [
            {"input_ids": [*row.ids[: len(row) - row.after], *[tokenizer.pad_token_id] * (1 + n % 2)]}
            for n, row in enumerate(encoded)
        ]
        difference = max(difference, _largest(_scores(exported, template, tokenizer, ends), ours))
    return Proof(len(rows), difference, chat, joined)


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


def _chat_path(
    template: Template, tokenizer: Any, rows: Sequence[Row], encoded: Sequence[Encoded]
) -> tuple[bool, bool]:
    """Whether the chat template's text gives the same ids, and the same text where prompt and response are joined.

    Of a base model's own template it must. Of sections it can't where a tokenizer treats a text's beginning apart.
    """
    from jinja2 import TemplateError

    markers = [token.content for token in tokenizer.added_tokens_decoder.values()]
    same, joined = [], []
    for row, expected in zip(rows, encoded, strict=True):
        said = "\n".join([row["text"], *headings(row["messages"]), *map(spoken, row["messages"])])
        if any(marker in said for marker in markers) or (not is_chat(template) and _rare_marker(said)):
            continue
        answer = {"role": "assistant", "content": row["text"]}
        tools = row["tools"] or None
        try:
            text = tokenizer.apply_chat_template([*row["messages"], answer], tools=tools, tokenize=False)
            if row["messages"]:
                begun = tokenizer.apply_chat_template(
                    row["messages"], tools=tools, tokenize=False, add_generation_prompt=True
                )
                joined.append(text == begun + row["text"])
        except (TemplateError, TypeError):
            continue  # this program tells such a conversation otherwise (chat.py)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        same.append(ids == list(expected.ids[: len(expected) - expected.after]))
        if not same[-1] and is_chat(template):
            raise ExportError(_otherwise(template, row))
    return bool(same) and all(same), bool(same) and all(same) and all(joined)


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
