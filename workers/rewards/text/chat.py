"""Conversations as a base model was taught to read them: through the chat template of its own tokenizer.

The template is rendered, but no text in it can spell a marker. Before the rendering a private-use character is put
into every special token that a text spells, and others around each text. After it the string is cut at the special
tokens that are left, which only the template can have written, and the private-use characters are taken out. Each
run of text between two special tokens is tokenised as one string. So for ordinary texts the ids are those of
`tokenizer(tokenizer.apply_chat_template(...), add_special_tokens=False)`, which is what TRL, OpenRLHF and
transformers read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..config import Refused
from ..data.messages import Message
from .digits import score_suffix
from .marks import Edges, Marks, Piece, edges_of, inside, unmarked, within
from .sections import HEAD, HEAD_AND_TAIL, PROMPT_SHARE, Encoded, Template, halves, markers_in, plain
from .source import Unusable, backends, dated, single
from .telling import own_tellings, tellings

CHUNK = 512  # responses whose tokens' places are held at once
# What a template may look for in a text, "</think>" or "[INST]", whether it is a token or not.
_LITERAL = re.compile(r"<[^\s<>{}'\"]+>|\[/?[A-Z_]+\]|<</?SYS>>")
_PRIVATE = re.compile("[\U000f0000-\U0010ffff]")


class Turn(NamedTuple):
    """The run of text with the response in it, and how much of the white space around that the template keeps."""

    before: str
    lead: str
    trail: str
    after: str
    contents: tuple[tuple[int, int], ...]


@dataclass
class Asked:
    """A prompt as it is told to the template."""

    messages: list[Message]
    tools: list[Any]
    changed: bool  # it had to be told in other turns than its own
    head: list[Piece]  # before the response's run
    opening: int | None  # the special token before the response's run
    ending: list[Piece]  # behind the response's run
    turns: dict[Edges, Turn]  # the response's run, by the white space around a response
    ids: list[int] = field(default_factory=list)  # of the head, with the opening token
    said: list[bool] = field(
        default_factory=list
    )  # which of those are of messages' texts, once a text was cut


class ChatTemplate(Template):
    """Builds ids through the tokenizer's chat template: the prompt's turns, and the response as the assistant's.

    A scalar head reads the response's last token ("response"), or the rendered conversation's last one ("turn", as
    published reward models were taught). For ordinal scores "### Score:" follows the response within its turn.

    A conversation that the template refuses or leaves parts of out is told in turns that it knows: tools and calls as
    text, neighbours of one role as one turn, what the system says with the first question, at last all as one question.

    What is longer than max_length is cut as Template says; the template's own tokens stay. Of the messages' texts the
    earliest gives way first.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        ordinal: bool,
        max_length: int,
        reads: str = "response",
        policy: bool = False,
    ) -> None:
        """Raises Unusable, and Refused if the tokenizer can't do what the method needs."""
        super().__init__(
            tokenizer,
            architecture="causal",
            ordinal=ordinal,
            max_length=max_length,
            reads=reads,
            policy=policy,
        )
        self.policy = policy and not ordinal
        self.suffix = score_suffix(self._ids).text if ordinal else ""
        tokenizer.chat_template = self.source = dated(single(tokenizer.chat_template))
        added = {t.content: (number, t) for number, t in tokenizer.added_tokens_decoder.items() if t.special}
        self._tokens = added
        self._swallowing = {number for number, token in added.values() if token.rstrip}
        known = sorted(added, key=len, reverse=True)
        self._alternatives = "|".join(map(re.escape, known)) or "(?!)"
        spelled = {*added, *_LITERAL.findall(self.source)}
        self._splits = markers_in(spelled)
        self._initials = {word[0] for word in spelled}
        self._first, self._inner = backends(tokenizer)
        self._afters: dict[str, list[int]] = {}
        self._sample = self._probe()

    def _probe(self) -> Asked:
        marks = self._marks(["x"])
        asked = self._ask([{"role": "user", "content": "{message}"}], [], marks)
        if asked is None or asked.changed:
            raise Unusable(self._why or "it leaves out what is said")
        self._heads([asked])
        turn = asked.turns[Edges()]
        run = self._run_ids(turn.before + self.suffix, not asked.head)
        frame = len(asked.ids) + len(run) + 2 * len(self._cut_mark)
        if self.max_length < frame + 8:
            raise Refused(
                f"config.json: max_length {self.max_length} leaves no room for text in the base model's chat template; "
                f"use {frame + 64} or more"
            )
        return asked

    # --- What it is ---

    @property
    def read_as(self) -> str:
        return "the base model's chat template"

    @property
    def end_of_turn(self) -> str | None:
        """The special token that the template writes behind a response."""
        token = self._sample.ending[0].token if self._sample.ending else None
        return None if token is None else str(self.tokenizer.convert_ids_to_tokens(token))

    @property
    def markers(self) -> str:
        """The special tokens of a question and its answer, spelled out."""
        ids = [piece.token for piece in (*self._sample.head, *self._sample.ending)] + [self._sample.opening]
        used = [
            self.tokenizer.convert_ids_to_tokens(token) for token in dict.fromkeys(ids) if token is not None
        ]
        return " ".join(dict.fromkeys([*used, str(self.tokenizer.eos_token or "")])).strip()

    def made_up(self, question: str, answer: str) -> str:
        """What the template writes of a question and its answer, from the end of the turn before on."""
        rendered = self._apply(
            [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], []
        )
        return (self.end_of_turn or "") + "\n" + rendered

    def describe(self) -> dict[str, Any]:
        messages = [*self._sample.messages, {"role": "assistant", "content": "{response}"}]
        return {
            "name": "chat-1",
            "text": self._apply(messages, []) + self.suffix,
            "digest": hashlib.sha256(self.source.encode()).hexdigest(),
            "digit_ids": list(self.digit_ids) if self.digit_ids else None,
            "reads": self.reads,
            "cut": HEAD_AND_TAIL,
        }

    def prompt_text(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> str:
        """The same for prompts that are the same to the template."""
        return json.dumps([list(messages), list(tools)], ensure_ascii=False, sort_keys=True)

    def notes(self, rows: Sequence[dict[str, Any]]) -> list[str]:
        """How many prompts had to be told in other turns than their own, in plain words."""
        prompts = {_key(row): row for row in rows}
        marks = self._marks(prompts)
        asked = [self._ask(row["messages"], row.get("tools") or [], marks) for row in prompts.values()]
        changed = sum(one is None or one.changed for one in asked)
        if not changed:
            return []
        return [
            f"{changed:,} of {len(asked):,} prompts hold turns that the base model's chat template has no words for "
            "(roles, tools, an order of its own); they were told to it as text in turns that it knows."
        ]

    # --- Encoding ---

    def encode(self, rows: Sequence[dict[str, Any]]) -> list[Encoded]:
        """Rows with `messages`, `text` and perhaps `tools`; a prompt shared by rows is rendered and tokenised once."""
        keys = [_key(row) for row in rows]
        marks = self._marks([*dict.fromkeys(keys), *(row["text"] for row in rows)])
        prompts: dict[str, Asked] = {}
        for key, row in zip(keys, rows, strict=True):
            if key not in prompts:
                prompts[key] = self._asked(row["messages"], row.get("tools") or [], marks)
        self._heads(prompts.values())
        encoded: list[Encoded] = []
        for begin in range(0, len(rows), CHUNK):
            parts = [
                (prompts[key], *self._spoken(prompts[key], row["text"], marks))
                for key, row in zip(keys[begin : begin + CHUNK], rows[begin : begin + CHUNK], strict=True)
            ]
            texts = [
                (not asked.head and asked.opening is None, self._run(asked, turn, text))
                for asked, turn, text in parts
            ]
            runs = self._tokenised(texts)
            encoded += [
                self._encoded(asked, turn, text, *runs[wanted])
                for (asked, turn, text), wanted in zip(parts, texts, strict=True)
            ]
        return encoded

    def _spoken(self, asked: Asked, text: str, marks: Marks) -> tuple[Turn, str]:
        """The run that a response stands in, and what the template keeps of the response."""
        if self.ordinal:
            text = plain(text)
        core, edges = edges_of(text)
        if edges not in asked.turns and not self._render(asked, edges, marks):
            asked.turns[edges] = asked.turns[Edges()]
        turn = asked.turns[edges]
        return turn, turn.lead + core + turn.trail

    def _run(self, asked: Asked, turn: Turn, text: str) -> str:
        """What is tokenised as one string: up to the response's end where the head reads there, as prompt + completion
        and an exported model's template end there."""
        said, suffix = turn.before + text, turn.after if self.reads == "turn" else ""
        if self.ordinal:
            swallows = asked.opening in self._swallowing and not said  # the white space behind it
            suffix = self.suffix.lstrip() if swallows else self.suffix
        return said + suffix

    def _encoded(
        self, asked: Asked, turn: Turn, text: str, ids: list[int], places: list[tuple[int, int]]
    ) -> Encoded:
        begin, end = len(turn.before), len(turn.before) + len(text)
        start, stop = within(places, begin, end, len(self._run(asked, turn, text)))
        head, own, rest = asked.ids + ids[:start], ids[start:stop], ids[stop:]
        if not self.ordinal and self.reads == "response":
            rest = self._after_ids(turn.after)
        last = asked.ending[0].token if asked.ending else None
        word = [] if self.ordinal or last is None else [*rest, last]  # the end of the turn
        tail = rest if self.ordinal else word
        if self.reads == "turn" and not self.ordinal:
            tail = rest + self._piece_ids(asked.ending)
        whole = len(own)
        truncated = len(head) + whole + len(tail) > self.max_length
        if truncated:
            head, own = self._shortened(asked, turn, head, start, places, own, len(tail))
        unknown = 0 if self._unknown is None else head.count(self._unknown) + own.count(self._unknown)
        kept = tail if self.ordinal or self.reads == "turn" or self.policy else []
        stop = len(head) + len(own) + (0 if self.ordinal else min(len(word), len(kept)))
        after = len(kept) if self.policy and self.reads == "response" else 0
        return Encoded((*head, *own, *kept), len(head), stop, truncated, 0, unknown, len(own) < whole, after)

    def _shortened(
        self,
        asked: Asked,
        turn: Turn,
        head: list[int],
        start: int,
        places: list[tuple[int, int]],
        own: list[int],
        tail: int,
    ) -> tuple[list[int], list[int]]:
        """Prompt and response that fit beside `tail` tokens: the messages' texts give way first, then the response,
        or the template's left end where its own tokens are more than half of what fits."""
        said = self._said(asked) + [inside(place, turn.contents) for place in places[:start]]
        count = sum(said)
        room = self.max_length - tail - (len(head) - count)
        if room >= min(len(own), self.max_length // 2):
            space = room - len(own) if room >= len(own) else min(count, room // PROMPT_SHARE)
            head = self._dropped(head, said, max(0, space))
        else:
            space = self.max_length - tail - len(own)
            frame = [token for token, text in zip(head, said, strict=True) if not text]
            head = self._cut(frame, max(space, (self.max_length - tail) // 2), head=0)
        return head, self._cut(own, self.max_length - tail - len(head), head=HEAD)

    def _dropped(self, ids: list[int], said: list[bool], space: int) -> list[int]:
        """The ids without the first of the messages' tokens, of which `space` fit with the mark in their place."""
        count = sum(said)
        if count <= space:
            return ids
        mark = self._cut_mark[:space]
        gone = count - (space - len(mark))
        kept: list[int] = []
        for token, text in zip(ids, said, strict=True):
            if not text or gone <= 0:
                kept.append(token)
                continue
            gone -= 1
            if not gone:
                kept += mark
        return kept

    def _said(self, asked: Asked) -> list[bool]:
        """Which of the head's tokens are of messages' texts."""
        if not asked.said:
            runs = self._tokenised(_texts(asked.head))
            for wanted, piece in zip(_texts(asked.head), asked.head, strict=True):
                asked.said += [False] * (piece.token is not None)
                asked.said += [inside(place, piece.contents) for place in runs[wanted][1]]
            asked.said += [False] * (asked.opening is not None)
        return asked.said

    # --- Rendering ---

    def _asked(self, messages: Sequence[Message], tools: Sequence[Any], marks: Marks) -> Asked:
        asked = self._ask(messages, tools, marks)
        if asked is None:
            raise Refused(f"the base model's chat template refuses a question and its answer ({self._why})")
        return asked

    def _ask(self, messages: Sequence[Message], tools: Sequence[Any], marks: Marks) -> Asked | None:
        """The first way of telling a conversation that the template shows whole."""
        own = list(own_tellings(messages, tools, self._knows_developer))
        tried: list[Any] = []
        self._why = ""
        for telling in tellings(messages, tools, self._knows_developer):
            if telling in tried:
                continue
            tried.append(telling)
            asked = Asked(*telling, telling not in own, [], None, [], {})
            try:
                if self._render(asked, Edges(), marks):
                    return asked
            except Exception as error:  # a template may raise anything
                self._why = " ".join(str(error).split())[:200]
        return None

    @property
    def _knows_developer(self) -> bool:
        return "developer" in self.source

    def _render(self, asked: Asked, edges: Edges, marks: Marks) -> bool:
        """Whether the template shows all that is said. Fills in the run of a response between such white space."""
        messages = [self._safe(message, marks) for message in asked.messages]
        text = f"{edges.lead}{marks.first}{'x' * edges.said}{marks.last}{edges.trail}"
        rendered = self._apply(
            [*messages, {"role": "assistant", "content": text}],
            [self._split(tool, marks) for tool in asked.tools],
        )
        if not _whole(rendered, messages, asked, edges.said, marks):
            return False
        pieces = self._pieces(rendered, marks)
        at = next((n for n, piece in enumerate(pieces) if piece.response), None)
        if at is None:
            return False
        piece = pieces[at]
        assert piece.response is not None
        before, after = piece.text[: piece.response[0]], piece.text[piece.response[1] :]
        if not asked.turns:
            asked.head, asked.opening, asked.ending = pieces[:at], piece.token, pieces[at + 1 :]
            asked.turns[edges] = Turn(before, "", "", after, piece.contents)
            return True
        bare = asked.turns[Edges()]
        kept_lead = before.removeprefix(bare.before) if before.startswith(bare.before) else ""
        kept_trail = after.removesuffix(bare.after) if after.endswith(bare.after) else ""
        asked.turns[edges] = Turn(
            before[: len(before) - len(kept_lead)],
            kept_lead,
            kept_trail,
            after[len(kept_trail) :],
            piece.contents,
        )
        return True

    def _apply(self, messages: list[Message], tools: list[Any]) -> str:
        given = [{key: value for key, value in m.items() if value is not None} for m in messages]
        return str(self.tokenizer.apply_chat_template(given, tools=tools or None, tokenize=False))

    def _safe(self, message: Message, marks: Marks) -> Message:
        """A message whose texts can spell nothing, the content enclosed within its own white space."""
        safe: Message = {key: self._split(value, marks) for key, value in message.items() if key != "content"}
        if message.get("content") is not None:
            text = plain(message["content"]) if self.ordinal else message["content"]
            core, edges = edges_of(text)
            core = f"{marks.begin}{self._split(core, marks)}{marks.end}" if core else ""
            safe["content"] = edges.lead + core + edges.trail
        return safe

    def _split(self, value: Any, marks: Marks) -> Any:
        """Texts in which a character stands inside each marker, in all of a value."""
        if isinstance(value, str):
            if self._initials.isdisjoint(value):
                return value
            return self._splits.sub(lambda found: found.group() + marks.split, value)
        if isinstance(value, dict):
            return {self._split(key, marks): self._split(each, marks) for key, each in value.items()}
        return [self._split(each, marks) for each in value] if isinstance(value, list) else value

    def _marks(self, texts: Iterable[str]) -> Marks:
        used = {self.source, *self._tokens}
        taken = {mark for text in (*used, *texts) for mark in _PRIVATE.findall(text)}
        free = (chr(code) for code in range(0xF0000, 0x110000) if chr(code) not in taken)
        return Marks(*(next(free) for _ in Marks._fields))

    def _pieces(self, rendered: str, marks: Marks) -> list[Piece]:
        """The rendered conversation, cut at the special tokens that the template wrote; the marks are taken out."""
        pieces: list[Piece] = []
        token: int | None = None
        at, going_on, strips = 0, False, False
        found: list[re.Match[str] | None] = [
            *re.finditer(f"(?:{self._alternatives})(?!{marks.split})", rendered), None
        ]  # fmt: skip
        for match in found:
            raw = rendered[at : match.start() if match else len(rendered)]
            number, added = self._tokens[match.group()] if match else (None, None)
            text, contents, response, going_on = unmarked(raw, marks, going_on)
            left = len(text) - len(text.lstrip()) if strips else 0
            right = len(text.rstrip()) if added is not None and added.lstrip else len(text)
            right = max(left, right)

            def moved(span: tuple[int, int], left: int = left, right: int = right) -> tuple[int, int]:
                return min(max(span[0], left), right) - left, min(max(span[1], left), right) - left

            pieces.append(
                Piece(
                    token,
                    text[left:right],
                    tuple(map(moved, contents)),
                    moved(response) if response else None,
                )
            )
            if match:
                assert added is not None
                token, at, strips = number, match.end(), added.rstrip
        if pieces[0] == Piece(None, "", (), None):
            pieces.pop(0)
        return pieces

    # --- Tokenising ---

    def _heads(self, prompts: Iterable[Asked]) -> None:
        """Tokenises what stands before the responses' runs."""
        fresh = [asked for asked in prompts if not asked.ids]
        runs = self._tokenised(wanted for asked in fresh for wanted in _texts(asked.head))
        for asked in fresh:
            for wanted, piece in zip(_texts(asked.head), asked.head, strict=True):
                asked.ids += [] if piece.token is None else [piece.token]
                asked.ids += runs[wanted][0]
            asked.ids += [] if asked.opening is None else [asked.opening]

    def _piece_ids(self, pieces: Sequence[Piece]) -> list[int]:
        ids: list[int] = []
        for piece in pieces:
            ids += [] if piece.token is None else [piece.token]
            ids += self._run_ids(piece.text, False)
        return ids

    def _after_ids(self, text: str) -> list[int]:
        """What stands between a response and the end of its turn: mostly nothing, and always the same."""
        if text not in self._afters:
            self._afters[text] = self._run_ids(text, False)
        return self._afters[text]

    def _run_ids(self, text: str, first: bool) -> list[int]:
        return self._tokenised([(first, text)])[first, text][0]

    def _tokenised(
        self, wanted: Iterable[tuple[bool, str]]
    ) -> dict[tuple[bool, str], tuple[list[int], list[tuple[int, int]]]]:
        """Ids and places of runs of text; a run is the first where nothing stands before it."""
        runs: dict[tuple[bool, str], tuple[list[int], list[tuple[int, int]]]] = {}
        distinct = dict.fromkeys(wanted)
        for first, backend in ((True, self._first), (False, self._inner)):
            texts = [text for at_first, text in distinct if at_first is first]
            for text, made in zip(texts, backend.encode_batch(texts, add_special_tokens=False), strict=True):
                runs[first, text] = self._harmless(text, made.ids, made.offsets, backend)
        return runs

    def _harmless(
        self, text: str, ids: list[int], places: list[tuple[int, int]], backend: Any
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """The same, unless the vocabulary spells a special token like a word: then that is tokenised in two parts."""
        if self._forbidden.isdisjoint(ids):
            return ids, places
        parts = halves(text, self._markers)
        ids, places, at = [], [], 0
        made_of = backend.encode_batch(parts[:1], add_special_tokens=False)
        made_of += self._inner.encode_batch(parts[1:], add_special_tokens=False)
        for part, made in zip(parts, made_of, strict=True):
            for token, (begin, end) in zip(made.ids, made.offsets, strict=True):
                if token not in self._forbidden:
                    ids.append(token)
                    places.append((begin + at, end + at))
            at += len(part)
        return ids, places


# --- Small parts ---


def _whole(rendered: str, messages: Sequence[Message], asked: Asked, answered: bool, marks: Marks) -> bool:
    """Whether all texts, the response, and the names of tools and calls stand in what a template wrote."""
    contents = sum(marks.begin in (message.get("content") or "") for message in messages)
    if rendered.count(marks.begin) < contents or rendered.count(marks.end) < contents:
        return False
    answers = re.findall(f"{marks.first}(x?){marks.last}", rendered)
    if answers != ["x" * answered] or rendered.count(marks.first) > 1:
        return False
    calls = [call for message in asked.messages for call in message.get("tool_calls") or ()]
    named = [call.get("function", call) for call in calls]
    named += [tool.get("function", tool) if isinstance(tool, dict) else {} for tool in asked.tools]
    names = [str(each.get("name") or "") for each in named if isinstance(each, dict)]
    written = rendered.replace(marks.split, "")
    said = "\n".join(message.get("content") or "" for message in asked.messages)
    return all(written.count(name) >= names.count(name) + said.count(name) for name in names if name)


def _key(row: dict[str, Any]) -> str:
    return json.dumps([row["messages"], row.get("tools") or []], ensure_ascii=False, sort_keys=True)


def _texts(head: Sequence[Piece]) -> list[tuple[bool, str]]:
    """The texts of pieces, and which has nothing before it."""
    return [(number == 0 and piece.token is None, piece.text) for number, piece in enumerate(head)]


def template_of(
    tokenizer: Any,
    *,
    architecture: str,
    ordinal: bool,
    max_length: int,
    pool_prompt: bool = True,
    reads: str = "response",
    policy: bool = False,
) -> Template:
    """What a base model reads: its tokenizer's chat template if it is causal and has one that can be used, else
    sections. Raises Refused."""
    why = "has no chat template"
    if architecture == "causal" and getattr(tokenizer, "chat_template", None):
        try:
            return ChatTemplate(tokenizer, ordinal=ordinal, max_length=max_length, reads=reads, policy=policy)
        except Unusable as error:
            why = f"has a chat template that can't be used: {error}"
    template = Template(
        tokenizer,
        architecture=architecture,
        ordinal=ordinal,
        max_length=max_length,
        pool_prompt=pool_prompt,
        reads=reads,
        policy=policy,
    )
    template.why = why
    return template


def described_template(tokenizer: Any, described: dict[str, Any], **given: Any) -> Template:
    """The template that an artifact was made with, from what Template.describe said of it; `given`: architecture,
    ordinal, max_length. Raises Refused."""
    if described["name"].startswith("chat-"):
        given.pop("architecture")
        try:
            return ChatTemplate(tokenizer, reads=described["reads"], **given)
        except Unusable as error:
            raise Refused(f"its chat template can't be used: {error}") from None
    return Template(
        tokenizer,
        pool_prompt="pooled" not in described,
        head_and_tail="cut" in described,  # earlier models go on reading as they did
        reads="turn" if described["name"] == "causal-1" else "response",
        **given,
    )
