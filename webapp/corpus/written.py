"""Texts exactly as they were written, and what tells two of them apart.

White space and signs without shape are seen by marks that are not part of the text: what is copied is the text.
"""

import re
import string
import unicodedata
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from html import escape
from html.parser import HTMLParser
from typing import Any

from django.utils.safestring import SafeString, mark_safe

# Words of one text times words of the other, above which lines are compared instead.
COMPARED = 2_000_000

# White space of a line, signs that no font draws, and those of them that join letters and emoji.
_SPACE = " \t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
_SHAPELESS = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff"
)
_JOINING = "\u200c\u200d\ufe0e\ufe0f"
INVISIBLE = re.compile(f"[{_SHAPELESS}]")
_RUNS = re.compile(rf"\n|[{_SPACE}{_SHAPELESS}]+|.", re.DOTALL)
_SHAPES = {" ": "·", "\t": "→\t", "\u00a0": "⍽", "\n": "↵"}

# White space goes with the word before it: as a word of its own it would be in all places, and finding matches slow.
_WORDS = re.compile(r"\w+\s*|[^\w\s]\s*|\s+")
_LINES = re.compile(r"[^\n]*\n|[^\n]+")

# How a piece of a text is shown: as its rival has it, otherwise, otherwise in white space, or in look-alike signs.
_SAME, _OTHER, _SPACED, _SIGNED = range(4)
# A text in pieces, each with how its rival has it.
_Pieces = list[tuple[str, int]]


def as_written(text: str, rival: str = "") -> SafeString:
    """The text itself, every character of it, white space at line ends in sight.

    With a rival the words in which the two differ are marked.
    """
    return written_parts([text], [rival] if rival else [])[0]


def written_parts(sources: Sequence[str], rivals: Sequence[str] = ()) -> list[SafeString]:
    """Each part as it was written; with rivals, what all parts together don't share with all of theirs is marked."""
    mine, other = tuple(sources), tuple(rivals)
    pieces: list[_Pieces] = [[(source, _SAME)] for source in mine]
    if other and mine != other:
        # a pair is compared once for both of its sides
        pieces = _compared(mine, other)[0] if mine < other else _compared(other, mine)[1]
    return [_pre(part) for part in pieces]


def _pre(pieces: _Pieces) -> SafeString:
    body, last = "", len(pieces) - 1
    for place, (text, kind) in enumerate(pieces):
        shown = _seen(text, kind, first=place == 0, last=place == last)
        body += f"<mark>{shown}</mark>" if kind else shown
    # a page drops a line break that follows <pre> at once
    return mark_safe(f'<pre class="as-written" dir="auto"><span>{body}</span></pre>')  # noqa: S308 - escaped


def _seen(text: str, kind: int, *, first: bool, last: bool) -> str:
    return _unseen(kind, first, last).sub(_sign, escape(text, quote=False))


@lru_cache
def _unseen(kind: int, first: bool, last: bool) -> re.Pattern[str]:
    """What gets a mark: white space before a line's end, line breaks at the text's ends, signs without shape."""
    end = r"(?=\r?\n|\Z)" if last else r"(?=\r?\n)"
    shown = [rf"[{_SPACE}]+{end}", "[\t\u00a0\u1680\u2000-\u200a\u202f\u205f]"]
    if first:
        shown.append(r"\A\n+")
    if last:
        shown.append(r"\n+\Z")
    if kind in (_SPACED, _SIGNED):
        shown.append(rf"[{_SPACE}]+|\n")
    if kind == _SIGNED:
        shown.append(r"[^\x00-\x7f]|[Il]")
    if kind == _SAME:
        # between two letters they join them, and are seen by that
        shown.append(rf"(?![{_JOINING}])[{_SHAPELESS}]|(?<!\S)[{_JOINING}]|[{_JOINING}](?!\S)")
    else:
        shown.append(f"[{_SHAPELESS}]")
    return re.compile("|".join(shown))


def _sign(found: re.Match[str]) -> str:
    return "".join(_marked(run) for run in _RUNS.findall(found[0]))


def _marked(run: str) -> str:
    """A run of signs with their mark. What is in the mark's span is copied, and takes no room."""
    if not run[0].isspace() and not INVISIBLE.match(run):
        return f'{run}<span class="unseen" data-sign="{_code(run)}"></span>'
    marks = "".join(_SHAPES.get(sign, _code(sign)) for sign in run)
    # a page takes a bare CR for a line break
    inner = run.replace("\x00", "").replace("\r", "&#13;")
    return f'<span class="unseen" data-sign="{marks}">{inner}</span>'


def _code(sign: str) -> str:
    return f"[U+{ord(sign):04X}]"


# --- Differences ---


@lru_cache(maxsize=8)
def _compared(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[list[_Pieces], list[_Pieces]]:
    """The parts of both in pieces, each with how the other one says it."""
    mine, other = _tokens(first, _WORDS), _tokens(second, _WORDS)
    if len(mine) * len(other) > COMPARED:
        mine, other = _tokens(first, _LINES), _tokens(second, _LINES)
    parts: tuple[list[_Pieces], list[_Pieces]] = [[]], [[]]
    for tag, start, end, from_other, to_other in _opcodes(mine, other):
        said = mine[start:end], other[from_other:to_other]
        kind = _SAME if tag == "equal" else _kind(*said)
        for tokens, found in zip(said, parts, strict=True):
            _add(tokens, kind, found)
    return parts


def _add(tokens: Sequence[str | None], kind: int, parts: list[_Pieces]) -> None:
    for token in tokens:
        if token is None:
            parts.append([])
        elif parts[-1] and parts[-1][-1][1] == kind:
            parts[-1][-1] = (parts[-1][-1][0] + token, kind)
        else:
            parts[-1].append((token, kind))


def _tokens(texts: Sequence[str], pattern: re.Pattern[str]) -> list[str | None]:
    """The texts in words or lines, None between two texts."""
    tokens: list[str | None] = []
    for place, text in enumerate(texts):
        tokens += [None] * bool(place) + pattern.findall(text)
    return tokens


def _opcodes(mine: list[str | None], other: list[str | None]) -> list[tuple[str, int, int, int, int]]:
    """SequenceMatcher's, with what both begin and end with set aside; too much between is one replacement."""
    shortest, begin, end = min(len(mine), len(other)), 0, 0
    while begin < shortest and mine[begin] == other[begin]:
        begin += 1
    while end < shortest - begin and mine[-1 - end] == other[-1 - end]:
        end += 1
    left, right = mine[begin : len(mine) - end], other[begin : len(other) - end]
    middle: list[tuple[str, int, int, int, int]] = [("replace", 0, len(left), 0, len(right))]
    if len(left) * len(right) <= COMPARED:
        middle = list(SequenceMatcher(None, left, right, autojunk=False).get_opcodes())
    return [
        ("equal", 0, begin, 0, begin),
        *((tag, i + begin, j + begin, k + begin, m + begin) for tag, i, j, k, m in middle),
        ("equal", len(mine) - end, len(mine), len(other) - end, len(other)),
    ]


def _kind(mine: Sequence[str | None], other: Sequence[str | None]) -> int:
    first, second = ("".join(token or "" for token in tokens) for tokens in (mine, other))
    return {"space": _SPACED, "signs": _SIGNED}.get(likeness(first, second), _OTHER)


# --- Look-alikes ---

_ALIKE: dict[int, Any] = str.maketrans(
    "аеорсухіјѕһԁӏԛԝ" "АВЕКМНОРСТХІЈЅ" "ορνικαυχ" "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ" "I" "‘’‛′ʼ´`" "“”″" "‐‑‒–−" "⁄∕" "∶",
    "aeopcyxijshdlqw" "ABEKMHOPCTXlJS" "opvikaux" "ABEZHlKMNOPTYX" "l" "''''''" "'" '"""' "-----" "//" ":",
)  # fmt: skip
_ALIKE |= {0xFF01 + place: 0x21 + place for place in range(94)}
_ALIKE |= {
    ord(sign): letters for sign, letters in zip("ﬀﬁﬂﬃﬄ", ("ff", "fi", "fl", "ffi", "ffl"), strict=True)
}


def skeleton(text: str) -> str:
    """The text with one sign for all that look alike, and without what cannot be seen; white space stays."""
    return unicodedata.normalize("NFC", INVISIBLE.sub("", text)).translate(_ALIKE)


def likeness(first: str, second: str) -> str:
    """ "space" or "signs" if two texts differ in nothing else than white space, or in signs that look alike."""
    if first == second:
        return ""
    if _spaceless(first) == _spaceless(second):
        return "space"
    return "signs" if _spaceless(skeleton(first)) == _spaceless(skeleton(second)) else ""


def _spaceless(text: str) -> str:
    return "".join(text.split())


def may_look_alike(first: str, second: str) -> bool:
    """Whether two texts are worth drawing to see if they look alike: their letters do, formulas set aside."""
    return first != second and _letters(first) == _letters(second)


_FORMULAS = re.compile(r"\$+[^$]*\$+|\\\(.*?\\\)|\\\[.*?\\\]", re.DOTALL)


def _letters(text: str) -> bytes:
    signs = _spaceless(skeleton(_FORMULAS.sub("", text)))
    return signs.encode(errors="surrogatepass").translate(None, string.punctuation.encode())


def look(html: str) -> list[Any]:
    """A drawn text as an eye sees it: what two texts share in whole tells nobody which is which."""
    looked = _Look()
    looked.feed(html)
    looked.close()
    looked.end_block()
    return looked.seen


_STYLES = {"em", "strong", "s", "code", "a"}
# Styles that show on white space too.
_SEEN_ON_SPACE = {"s", "code", "a"}


class _Look(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.seen: list[Any] = []
        self._styles: list[str] = []
        self._pre: list[str] | None = None
        self._math = self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("annotation", "button"):
            self._hidden += 1
        elif tag == "math" or self._math:
            self._math += tag == "math"
            self.seen.append((tag, tuple(sorted(attrs))))
        elif tag == "pre":
            self.end_block()
            self._pre = []
        elif "data-sign" in given:
            (self.seen if self._pre is None else self._pre).append(given["data-sign"] or "")
            self._hidden += 1
        elif tag in _STYLES:
            self._styles.append(tag)
        elif tag != "span" and self._pre is None:
            self.end_block()
            seen = ("value", "start", "checked", "src", "type") + ("class",) * (tag == "ol")
            self.seen.append((tag, tuple(sorted((key, value) for key, value in attrs if key in seen))))
        if tag == "span" and "data-sign" not in given:
            self._styles.append("span")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("annotation", "button"):
            self._hidden -= 1
        elif self._math:
            self._math -= tag == "math"
            self.seen.append(("/" + tag, ()))
        elif tag == "pre" and self._pre is not None:
            lines = "".join(self._pre).split("\n")
            self.seen.append(("pre", skeleton("\n".join(line.expandtabs(4).rstrip() for line in lines))))
            self._pre = None
        elif tag == "span" and self._hidden:
            self._hidden -= 1
        elif tag in _STYLES or tag == "span":
            if tag in self._styles:
                self._styles.reverse()
                self._styles.remove(tag)
                self._styles.reverse()
        elif self._pre is None:
            self.end_block()
            self.seen.append(("/" + tag, ()))

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        if self._pre is not None:
            self._pre.append(data)
            return
        styles = frozenset(self._styles) - {"span"}
        for sign in skeleton(data):
            if not sign.isspace():
                self.seen.append((sign, styles))
            elif self.seen and self.seen[-1][0] != " " and len(self.seen[-1][0]) == 1:
                self.seen.append((" ", styles & _SEEN_ON_SPACE))

    def end_block(self) -> None:
        """White space at the end of a block cannot be seen."""
        while self.seen and self.seen[-1][0] == " ":
            self.seen.pop()
