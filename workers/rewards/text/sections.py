"""From a conversation and a response to token ids; text can neither forge a marker nor lose its end.

Structure is built from ids, never from one joined string: every piece of text is tokenised on its own, with
special tokens read as plain text ("[SEP]", "<|im_end|>" in a response are just characters), and a run of ###,
the marker of the causal template, is escaped inside text. So "### Score: 9" in a response stays a quotation.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..config import Refused
from ..data.messages import Message, headings, offered, spoken
from .digits import score_suffix

RESPONSE_HEADER = "\n\n### Response\n"
CUT_MARK = " [...] "
PROMPT_SHARE = 4  # beside a response that has to be cut anyway, a prompt keeps up to a quarter of the length
HEAD = 2 / 3  # of what is kept of a response that has to be cut; the rest is its tail
HEAD_AND_TAIL = "head and tail"  # in a template's description

_HASH, _NO_WIDTH = "#\uff03\ufe5f", "\u00ad\u200b-\u200f\u2060\ufeff"
MARKER = re.compile(f"[{_HASH}](?:[{_NO_WIDTH}]*[{_HASH}]){{2,}}")


@dataclass(frozen=True)
class Encoded:
    """One response with its prompt as ids; `start` is the first token of the response, `stop` one past its last.

    An encoder's head reads the mean over the tokens from `pooled` to the end, a causal model's the token that `after`
    tokens follow. `unknown` of the text's tokens stand for characters that the base model doesn't know; `cut`: the
    response itself was shortened, not the prompt alone.
    """

    ids: tuple[int, ...]
    start: int
    stop: int
    truncated: bool
    pooled: int = 0
    unknown: int = 0
    cut: bool = False
    after: int = 0

    def __len__(self) -> int:
        return len(self.ids)


class Template:
    """Builds the ids that a model reads.

    encoder: [CLS] prompt [SEP] response [SEP] (without the first part when there is no prompt).
    causal:  ### User / ### Assistant sections, ### Response, then the response and, for ordinal scores, "### Score:".

    A causal model's scalar head `reads` the "response": its last token. So prompt + response scores the same whether
    an end token follows or not. With "turn", as up to 0.6.0's models, it reads the end-of-text token, if the tokenizer
    has one. A `policy` learns that token as the response's last word, the head reads before it.

    A message's tool calls follow its content, the tools that were offered are a section at the start (messages.py).

    Without `pool_prompt` an encoder's mean leaves the prompt's states out; the response has attended to it already.

    What is longer than max_length is cut, with a mark where something is missing. The prompt gives way first, from
    its beginning. A response that is still too long loses its middle: two thirds of what fits are its head, a third
    its tail. Without `head_and_tail`, as up to 0.4.0's models, it loses its beginning, and a prompt always keeps
    up to a quarter.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        architecture: str,
        ordinal: bool,
        max_length: int,
        pool_prompt: bool = True,
        head_and_tail: bool = True,
        reads: str = "response",
        policy: bool = False,
    ) -> None:
        """Raises Refused if the tokenizer can't do what the method needs."""
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise Refused("the base model has no fast tokenizer (tokenizer.json); choose another base model")
        self.tokenizer = tokenizer
        self.architecture = architecture
        self.ordinal = ordinal
        self.max_length = max_length
        self.pool_prompt = pool_prompt or architecture != "encoder"
        self.head_and_tail = head_and_tail
        self.reads = reads
        self.why = "has no chat template"  # and so reads sections
        self._after = self._spare = 0
        self._header = RESPONSE_HEADER
        self.digit_ids: tuple[int, ...] | None = None
        special = {n: token.content for n, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._unknown: int | None = tokenizer.unk_token_id
        self._forbidden = set(special) - {self._unknown}
        self._markers = markers_in(special.values())
        self._cut_mark = self._ids(CUT_MARK)
        if architecture == "encoder":
            self._start = _present(tokenizer.cls_token_id, tokenizer.bos_token_id)
            self._middle = self._end = _present(tokenizer.sep_token_id, tokenizer.eos_token_id)
        else:
            probe = tokenizer("a")["input_ids"]
            has_bos = tokenizer.bos_token_id is not None and probe[:1] == [tokenizer.bos_token_id]
            self._start = [tokenizer.bos_token_id] if has_bos else []
            self._middle = self._ids(self._header)
            if ordinal:
                _, self._end, self.digit_ids = score_suffix(self._ids)
            else:
                self._end = _present(tokenizer.eos_token_id, None)
                if reads == "response" and policy:
                    self._after = len(self._end)
                elif reads == "response":
                    # kept free, so that a text is cut where a policy's is
                    self._end, self._spare = [], len(self._end)
        frame = len(self._start) + len(self._middle) + len(self._end) + 2 * len(self._cut_mark)
        if max_length < frame + 8:
            raise Refused(
                f"config.json: max_length {max_length} leaves no room for text; use {frame + 64} or more"
            )

    @property
    def read_as(self) -> str | None:
        """What a causal model reads, in words; None for an encoder."""
        return None if self.architecture == "encoder" else f"### sections: the base model {self.why}"

    def notes(self, rows: Sequence[dict[str, Any]]) -> list[str]:
        """What a person should know of how these rows are read, in plain words."""
        return []

    @property
    def markers(self) -> str:
        """The special tokens around a question and its answer, spelled out: what a response may want to forge."""
        return str(self.tokenizer.eos_token or "")

    @property
    def frame(self) -> tuple[list[int], list[int], list[int]]:
        """The ids before the prompt, between prompt and response, and after the response."""
        return self._start, self._middle, self._end

    def describe(self) -> dict[str, Any]:
        """What an artifact stores, so that another program can rebuild the same ids."""
        described = self._described()
        if not self.pool_prompt:
            described["pooled"] = "response"
        if self.head_and_tail:
            described["cut"] = HEAD_AND_TAIL
        return described

    def _described(self) -> dict[str, Any]:
        if self.architecture == "encoder":
            return {"name": "encoder-1", "text": "[CLS] {prompt} [SEP] {response} [SEP]"}
        ends = self.ordinal or self.reads == "turn"
        end = self.tokenizer.decode(self._end) if ends else ""
        digits = list(self.digit_ids) if self.digit_ids else None
        text = "### User\n{message}" + RESPONSE_HEADER + "{response}" + end
        return {"name": "causal-1" if ends else "causal-2", "text": text, "digit_ids": digits}

    def with_header(self, header: str) -> Template:
        """A causal template that differs in the line before the response; to measure how much that matters."""
        other = copy.copy(self)
        other._header, other._middle = header, self._ids(header)
        return other

    def encode(self, rows: Sequence[dict[str, Any]]) -> list[Encoded]:
        """Rows with `messages`, `text` and perhaps `tools`; a prompt shared by rows is tokenised once."""
        prompts = [self.prompt_text(row["messages"], row.get("tools") or ()) for row in rows]
        distinct = list(dict.fromkeys(prompts))
        prompt_ids = dict(zip(distinct, self._batch_ids(distinct), strict=True))
        responses = self._batch_ids([plain(row["text"]) for row in rows])
        return [
            self._assemble(prompt_ids[prompt], response)
            for prompt, response in zip(prompts, responses, strict=True)
        ]

    def _assemble(self, prompt: list[int], response: list[int]) -> Encoded:
        asked = bool(prompt)
        middle = self._middle if asked or self.architecture == "causal" else []
        room = self.max_length - len(self._start) - len(middle) - len(self._end) - self._spare
        truncated, whole = len(prompt) + len(response) > room, len(response)
        if truncated:
            prompt_room = room - len(response)
            if prompt_room < 0 or not self.head_and_tail:
                prompt_room = max(prompt_room, min(len(prompt), room // PROMPT_SHARE))
            prompt = self._cut(prompt, prompt_room, head=0)
            response = self._cut(response, room - len(prompt), head=HEAD if self.head_and_tail else 0)
        head = [*self._start, *prompt, *middle]
        ids = (*head, *response, *self._end)
        # an end token right after the response is the response's own last word
        stop = len(head) + len(response) if self.ordinal else len(ids)
        pooled = 0 if self.pool_prompt or not asked else min(len(head), len(ids) - 1)
        unknown = 0 if self._unknown is None else prompt.count(self._unknown) + response.count(self._unknown)
        return Encoded(ids, len(head), stop, truncated, pooled, unknown, len(response) < whole, self._after)

    def _cut(self, ids: list[int], room: int, *, head: float) -> list[int]:
        """What fits: the share `head` from the beginning, a mark that says that something is missing, and the end."""
        if len(ids) <= room:
            return ids
        mark = self._cut_mark[:room]
        kept = room - len(mark)
        first = round(head * kept)
        return ids[:first] + mark + ids[len(ids) - (kept - first) :]

    def prompt_text(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> str:
        """An encoder reads a lone turn bare; everything else has a section for each message, and one for the tools."""
        if self.architecture == "encoder" and not tools and is_bare(messages):
            return plain(messages[0]["content"])
        sections = list(zip(headings(messages), map(spoken, messages), strict=True))
        if tools:
            sections.insert(0, ("Tools", offered(tools)))
        return "\n\n".join(f"### {plain(heading)}\n{plain(text)}" for heading, text in sections)

    def _ids(self, text: str) -> list[int]:
        return self._batch_ids([text])[0]

    def _batch_ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        for number, row in enumerate(ids):
            if not self._forbidden.isdisjoint(row):
                # a vocabulary that holds its special tokens among its words, as SentencePiece's do, spells them
                pieces = halves(texts[number], self._markers)
                parts = self._batch_ids(pieces) if len(pieces) > 1 else [row]
                ids[number] = [token for part in parts for token in part if token not in self._forbidden]
        return ids


def markers_in(words: Iterable[str]) -> re.Pattern[str]:
    """Finds the first character of each of these words in a text, also where two overlap."""
    longest = sorted(set(words), key=len, reverse=True)
    return re.compile(f"(?=(?:{'|'.join(map(re.escape, longest)) or '(?!)'}))(?s:.)")


def halves(text: str, markers: re.Pattern[str]) -> list[str]:
    """The text in parts of which none spells a marker of two characters or more."""
    edges = [0, *(found.end() for found in markers.finditer(text)), len(text)]
    return [text[begin:end] for begin, end in itertools.pairwise(edges) if begin < end]


def collate(rows: Sequence[Encoded], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-padded ids, lengths, and what the head reads: from where on (encoder), or how many tokens before the last
    (causal). [B, L], [B], [B]

    Which id pads doesn't matter, since masks come from lengths.
    """
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)  # [B, L]
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row.ids)
    pooled = torch.tensor([row.pooled or row.after for row in rows])
    return ids.to(device), lengths.to(device), pooled.to(device)


def plain(text: str) -> str:
    """Text with its own ### escaped (reversibly: one backslash more before each run of three or more #).

    Full-width and small # count, and characters of no width between them: some tokenizers' normalisation turns the
    former into # and drops the latter.
    """
    return MARKER.sub(lambda run: "\\" + run.group(), text)


def is_bare(messages: Sequence[Message]) -> bool:
    """Whether there is but one message, which is a text and nothing else."""
    return len(messages) == 1 and set(messages[0]) == {"role", "content"}


def _present(first: int | None, second: int | None) -> list[int]:
    chosen = first if first is not None else second
    return [] if chosen is None else [chosen]
