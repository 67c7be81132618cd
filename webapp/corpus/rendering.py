"""Response text is hostile, and it is what is measured: Markdown drawn without hiding what tells two texts apart.

Raw HTML is escaped, then the page's part is sanitised (nh3). What plain Markdown would swallow stays in sight:
reference definitions, backslashes, entities, addresses and titles of links, languages of code blocks, numbers of lists.
Whatever is lost all the same (a cell too many in a table) makes the text be shown as it was written.
"""

import re
import string
import sys
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from html.parser import HTMLParser
from typing import Any

import nh3
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.rules_inline import image as image_rule
from markdown_it.rules_inline import link as link_rule
from markdown_it.rules_inline.state_inline import Delimiter as _Delimiter
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from math_core import LatexError, LatexToMathML
from mdit_py_plugins.tasklists import tasklists_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from webapp.corpus.kept import Kept
from webapp.corpus.written import INVISIBLE, as_written, likeness, skeleton

# A formula longer than this, or code longer than that, is shown as written: both are drawn while somebody waits.
FORMULA_LENGTH = 4000
CODE_LENGTH = 20_000
# A formula in a line of text longer than this may be wider than a telephone.
WIDE_FORMULA = 40
NESTING = 100
LONG_ADDRESS = 300
DATA_IMAGE_LENGTH = 400_000

# A host by name, never by number or "localhost": a picture must not ask machines beside the reader's.
_IMAGE_ADDRESS = re.compile(
    r"https://(?P<host>(?:[a-z0-9_-]+\.)+(?:[a-z]{2,}|xn--[a-z0-9-]+))(?::\d{1,5})?(?P<path>[/?#][^\s\\\x00-\x1f]*)?",
    re.IGNORECASE | re.ASCII,
)
_DATA_IMAGE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}")
# Signs that turn round what follows them: drawn, "\u202eba" reads "ab".
_OVERRIDES = re.compile("[\u202d\u202e]")

_MATHML = {
    "math", "mrow", "mi", "mn", "mo", "ms", "mtext", "mspace", "mfrac", "msqrt", "mroot", "msub", "msup", "msubsup",
    "munder", "mover", "munderover", "mmultiscripts", "mprescripts", "mtable", "mtr", "mtd", "mpadded", "mphantom",
    "mstyle", "menclose", "merror", "semantics", "annotation",
}  # fmt: skip
_MATHML_ATTRIBUTES = {
    "class", "display", "displaystyle", "scriptlevel", "mathvariant", "stretchy", "form", "fence", "separator",
    "lspace", "rspace", "minsize", "maxsize", "largeop", "movablelimits", "symmetric", "accent", "accentunder",
    "linethickness", "width", "height", "depth", "voffset", "columnspan", "rowspan", "notation", "encoding",
}  # fmt: skip
_BLOCKS = (
    "p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "table", "th", "td",
)  # fmt: skip
_TAGS = {
    *_BLOCKS, "br", "hr", "em", "strong", "s", "code", "a", "thead", "tbody", "tr", "span", "div", "button", "input",
}  # fmt: skip
_ATTRIBUTES = {
    **{tag: {"dir", "class"} for tag in _BLOCKS},
    "code": {"class"},
    **{tag: {"class", "tabindex", "role", "aria-label"} for tag in ("span", "div")},
    "ol": {"dir", "start", "class"},
    "li": {"dir", "class", "value"},
    "pre": {"dir", "class", "tabindex", "role", "aria-label"},
    "img": {"src", "alt", "loading", "referrerpolicy"},
    "a": {"href"},
    "button": {"class", "type"},
    "input": {"type", "checked", "disabled", "class", "aria-label"},
    **dict.fromkeys(_MATHML, _MATHML_ATTRIBUTES),
}  # fmt: skip
# What Markdown may turn into form: marks of emphasis, lists, tables. All else has to be in the page as in the text.
_MARKS = bytes(ord(sign) for sign in string.punctuation if sign not in "\\&")

_mathml = LatexToMathML()
_formatter = HtmlFormatter(nowrap=True, classprefix="hl-")


@dataclass(frozen=True)
class Images:
    """That pictures of other sites may be loaded. `own` are this site's names: none of its pages is asked for."""

    own: tuple[str, ...] = ()

    def loads(self, address: str) -> bool:
        """Whether a picture is loaded: by https from a named host that isn't ours, no SVG; or a short data: address."""
        if address.startswith("data:"):
            return len(address) <= DATA_IMAGE_LENGTH and bool(_DATA_IMAGE.fullmatch(address))
        found = _IMAGE_ADDRESS.fullmatch(address)
        if found is None or len(address) > 2000:
            return False
        host, path = found["host"].lower(), (found["path"] or "").lower()
        own = any(
            name == "*" or host == name.lstrip(".") or host.endswith("." + name.lstrip("."))
            for name in self.own
        )
        return not own and not re.search(r"\.svgz?(?:[?#]|$)", path)


_drawn: Kept[SafeString] = Kept(8 * 2**20, sys.getsizeof)


def render_markdown(text: str, images: Images | None = None) -> SafeString:
    """HTML of a Markdown text that is safe to put in a page, and that loses no word of it.

    Pictures are boxes with their address; with `images` they are loaded where that allows it.
    """
    return _drawn.of(lambda: _render_markdown(text, images), text, images)


def _render_markdown(text: str, images: Images | None) -> SafeString:
    if _OVERRIDES.search(text):
        return as_written(text)
    try:
        html = _clean(_MARKDOWN.render(text, {"images": images}), images)
    except RecursionError:
        return as_written(text)
    read = _Reader.read(html)
    if _marked(text) != _marked(read) or (text and not _visible(read)):
        return as_written(text)
    return mark_safe(html)  # noqa: S308 - _clean sanitised it


def plain_text(text: str, words: int) -> str:
    """The first words of a text as they are read when it is drawn, on one line."""
    beginning = text[: words * 12]
    read = (
        _Reader.read(render_markdown(beginning).replace("<button", " <button"))
        if _MARKUP.search(beginning)
        else beginning
    )
    found = read.split()
    cut = len(found) > words or len(text) > len(beginning)
    return " ".join(found[:words]) + (" …" if cut and found else "")


def plain_sides(first: str, second: str, words: int) -> tuple[str, str]:
    """The beginnings of two texts for a list, in which they can be told apart if they differ at all."""
    shown = plain_text(first, words), plain_text(second, words)
    if first == second or skeleton(shown[0]) != skeleton(shown[1]):
        return shown
    # they begin alike: what follows from a few words before the first difference
    shorter = min(len(first), len(second))
    place = next((index for index in range(shorter) if first[index] != second[index]), shorter)
    start = max(first.rfind(" ", 0, max(0, place - 30)), 0)
    rest = first[start:], second[start:]
    lead = "… " if start else ""
    for form in (plain_text, _cut):
        found = form(rest[0], words), form(rest[1], words)
        if skeleton(found[0]) != skeleton(found[1]):
            return lead + found[0], lead + found[1]
    note = {"space": "white space differs", "signs": "signs that look alike differ"}
    said = note.get(likeness(first, second), "they differ further on")
    return f"{shown[0]} ({said})", f"{shown[1]} ({said})"


def _cut(text: str, words: int) -> str:
    """The first words as they were written."""
    found = text[: words * 12].split()[:words]
    return " ".join(found) + (" …" if len(found) == words else "")


_MARKUP = re.compile(r"[^\w\s.,;:?'\"()]")


def _visible(text: str) -> str:
    return INVISIBLE.sub("", "".join(text.split()))


def _no_data_link(tag: str, name: str, value: str) -> str | None:
    return None if name == "href" and value.strip().lower().startswith("data:") else value


_LINK_REL = "noopener noreferrer nofollow"
_cleaner = nh3.Cleaner(
    tags=_TAGS | _MATHML, attributes=_ATTRIBUTES, url_schemes={"http", "https", "mailto"}, link_rel=_LINK_REL
)
# Only a picture's address may begin with "data:".
_picture_cleaner = nh3.Cleaner(
    tags=_TAGS | _MATHML | {"img"},
    attributes=_ATTRIBUTES,
    attribute_filter=_no_data_link,
    url_schemes={"http", "https", "mailto", "data"},
    link_rel=_LINK_REL,
)


def _clean(html: str, images: Images | None = None) -> str:
    return (_picture_cleaner if images else _cleaner).clean(html)


def _marked(text: str) -> bytes:
    """The characters that have to survive, in order."""
    return "".join(text.split()).encode(errors="surrogatepass").translate(None, _MARKS)


class _Reader(HTMLParser):
    """What a person can read of a drawn text: its words, the numbers of lists, ticked tasks, formulas as written."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._math = self._button = self._annotation = False
        self._numbered = ". "

    @classmethod
    def read(cls, html: str) -> str:
        reader = cls()
        reader.feed(html)
        reader.close()
        return "".join(reader.parts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "ol":
            self._numbered = ") " if given.get("class") == "paren" else ". "
        elif tag == "li" and given.get("value"):
            self.parts.append(f"{given['value']}{self._numbered}")
        elif tag == "input" and "checked" in given:
            self.parts.append("x")
        self._set(tag, True)

    def handle_endtag(self, tag: str) -> None:
        self._set(tag, False)

    def _set(self, tag: str, value: bool) -> None:
        if tag in ("math", "button", "annotation"):
            setattr(self, f"_{tag}", value)

    def handle_data(self, data: str) -> None:
        if self._annotation or not (self._math or self._button):
            self.parts.append(data)


# --- Rules: what the parser does otherwise than CommonMark ---


def _formula(written: str, latex: str, *, block: bool) -> str | None:
    """MathML of a formula, with the source beside it; None if it is none that can be drawn."""
    if not latex.strip() or len(latex) > FORMULA_LENGTH:
        return None
    try:
        drawn: str = _mathml.convert_with_local_state(latex, displaystyle=block)
    except (LatexError, ValueError):
        return None
    body = re.sub(r"^<math[^>]*>|</math>$", "", drawn)
    # the policy allows no inline style; columns of equations are aligned by a class
    body = re.sub(r'<mtd style="text-align: (left|right);[^"]*"', r'<mtd class="math-\1"', body)
    display = ' display="block"' if block else ""
    source = f'<annotation encoding="application/x-tex">{escape(written)}</annotation>'
    return f"<math{display}><semantics><mrow>{body}</mrow>{source}</semantics></math>"


# Between two prices stand plain words ("$5 and 10$"): in a formula they stand behind a command, \\text{and}.
_PROSE = re.compile(r"^[^\\]*(?<!\S)[^\W\d_]{2,}(?!\S)[^\\]*$")
_PAIRS = {"\\(": "\\)", "\\[": "\\]", "$$": "$$", "$": "$"}


def _math_inline(state: StateInline, silent: bool) -> bool:
    """$...$, $$...$$, \\(...\\) and \\[...\\] within a line of text."""
    source, start = state.src, state.pos
    opening = source[start : start + 2]
    if opening not in _PAIRS:
        opening = opening[:1]
    if opening not in _PAIRS:
        return False
    closing = _PAIRS[opening]
    begin = start + len(opening)
    end = source.find(closing, begin, begin + FORMULA_LENGTH)
    if end < 0:
        return False
    latex, after = source[begin:end], end + len(closing)
    if opening == "$":
        # prices and shell variables are no formulas
        before, behind = source[start - 1 : start], source[after : after + 1]
        if latex != latex.strip() or "\n" in latex or latex.endswith("\\"):
            return False
        if before.isalnum() or behind.isalnum() or behind == "$" or _PROSE.search(latex):
            return False
    html = _formula(source[start:after], latex, block=opening in ("$$", "\\["))
    if html is None:
        return False
    if not silent:
        token = state.push("math", "", 0)
        wide = len(latex) > WIDE_FORMULA
        token.content = f'<span class="formula" {_scrolled("formula")}>{html}</span>' if wide else html
    state.pos = after
    return True


def _math_block(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    """A formula on lines of its own, between $$ and $$ or \\[ and \\]: its signs are no lists and headings."""
    if state.is_code_block(first):
        return False
    start = state.bMarks[first] + state.tShift[first]
    opening = state.src[start : start + 2]
    if opening not in ("$$", "\\["):
        return False
    closing = _PAIRS[opening]
    line, lines = first, []
    while line < last and (line == first or not state.isEmpty(line)):
        begin = state.bMarks[line] + state.tShift[line] + (2 if line == first else 0)
        lines.append(state.src[begin : state.eMarks[line]])
        if (line > first or len(lines[0]) > 2) and lines[-1].rstrip().endswith(closing):
            break
        if closing in lines[-1]:
            return False  # words follow the formula: it stands in a line of text
        line += 1
    else:
        return False
    latex = "\n".join(lines).rstrip().removesuffix(closing)
    if closing in latex or (html := _formula(f"{opening}{latex}{closing}", latex, block=True)) is None:
        return False
    if not silent:
        state.line = line + 1
        token = state.push("math", "", 0)
        token.content, token.map, token.block = (
            f'<div class="formula" {_scrolled("formula")}>{html}</div>\n',
            [first, state.line],
            True,
        )
    return True


def _escape_kept(state: StateInline, silent: bool) -> bool:
    """A backslash stays in sight; what it escapes is a plain sign, and a line that ends with it breaks."""
    if state.src[state.pos] != "\\":
        return False
    following = state.src[state.pos + 1 : state.pos + 2]
    if not following or (following not in string.punctuation and following != "\n"):
        return False
    if not silent:
        state.pending += "\\" if following == "\n" else "\\" + following
    state.pos += 1 if following == "\n" else 2
    return True


def _emphasis(state: StateInline, silent: bool) -> bool:
    """Asterisks alone, and never inside a word: __init__ and 2*3*4 stay as they are."""
    if silent or state.src[state.pos] != "*":
        return False
    end = state.pos
    while end < state.posMax and state.src[end] == "*":
        end += 1
    around = (state.src[state.pos - 1 : state.pos], state.src[end : end + 1])
    inside = all(sign.isascii() and sign.isalnum() for sign in around)  # other scripts write without spaces
    scanned = state.scanDelims(state.pos, not inside)
    for _ in range(scanned.length):
        token = state.push("text", "", 0)
        token.content = "*"
        delimiter = _Delimiter(
            marker=ord("*"),
            length=scanned.length,
            token=len(state.tokens) - 1,
            end=-1,
            open=scanned.can_open,
            close=scanned.can_close,
        )
        state.delimiters.append(delimiter)
    state.pos += scanned.length
    return True


def _with_address(
    rule: Callable[[StateInline, bool], bool], kind: str
) -> Callable[[StateInline, bool], bool]:
    """Links and images keep what stands in their brackets, title included, as written."""

    def wrapped(state: StateInline, silent: bool) -> bool:
        start, before = state.pos, len(state.tokens)
        if not rule(state, silent):
            return False
        if not silent:
            label = start + (1 if kind == "image" else 0)
            end = state.md.helpers.parseLinkLabel(state, label, kind != "image")
            written = state.src[end + 1 : state.pos]
            opening = next(token for token in state.tokens[before:] if token.type in ("link_open", "image"))
            opening.meta = {"written": written, "label": state.src[label + 1 : end]}
            state.tokens[-1].meta = opening.meta
        return True

    return wrapped


def _annotate_blocks(state: StateCore) -> None:
    """Every block finds its own direction; a list item keeps the number that was written."""
    for place, token in enumerate(state.tokens):
        if token.nesting == 1 and token.tag in _BLOCKS:
            # "auto" asks for words of its own, which a list of blocks has none of
            rtl = token.tag in ("ul", "ol", "blockquote", "table") and _first_is_rtl(state.tokens, place)
            token.attrSet("dir", "rtl" if rtl else "auto")
        if token.type == "list_item_open" and token.info:
            token.attrSet("value", str(int(token.info)))  # "01." is not "1.": shown as written
        for child in token.children or ():
            if child.type == "html_inline":  # a box of a task list: the text's own HTML is escaped
                done = "done" if "checked" in child.content else "not done"
                child.content = child.content.replace("<input", f'<input aria-label="{done}"', 1)
        if token.type == "ordered_list_open" and token.markup == ")":
            token.attrJoin("class", "paren")


def _first_is_rtl(tokens: Sequence[Token], place: int) -> bool:
    """Whether the first letter of a block of blocks, or of its first hundred, is written from right to left."""
    level = tokens[place].level
    for token in tokens[place + 1 : place + 100]:
        if token.level <= level:
            return False
        for sign in token.content:
            direction = unicodedata.bidirectional(sign)
            if direction in ("L", "R", "AL"):
                return direction != "L"
    return False


# --- Drawing ---


def _draw_content(
    self: RendererHTML, tokens: Sequence[Token], place: int, options: OptionsDict, env: EnvType
) -> str:
    return tokens[place].content


def _draw_link_close(
    self: RendererHTML, tokens: Sequence[Token], place: int, options: OptionsDict, env: EnvType
) -> str:
    written = tokens[place].meta.get("written")
    return "</a>" + (f'<span class="address">{escape(written)}</span>' if written else "")


def _draw_image(
    self: RendererHTML, tokens: Sequence[Token], place: int, options: OptionsDict, env: EnvType
) -> str:
    """A box with its address: a picture that is loaded tells a third party who reads what."""
    meta, images = tokens[place].meta, env.get("images")
    source = str(tokens[place].attrs.get("src", ""))
    picture = ""
    if images and images.loads(source):
        alt = escape(meta["label"] or "picture")
        picture = f'<img src="{escape(source)}" alt="{alt}" loading="lazy" referrerpolicy="no-referrer">'
    written = meta["written"]
    scrolled = f" {_scrolled('address')}" if len(written) > LONG_ADDRESS else ""
    address = f'<span class="address"{scrolled}>{escape(written)}</span>'
    return f'<span class="picture">{picture}{escape(meta["label"])}{address}</span>'


def _draw_table(
    self: RendererHTML, tokens: Sequence[Token], place: int, options: OptionsDict, env: EnvType
) -> str:
    if tokens[place].nesting < 0:
        return "</table></div>\n"
    direction = escape(str(tokens[place].attrs["dir"]))
    return f'<div class="table-scroll" {_scrolled("table")}><table dir="{direction}">\n'


def _draw_code(
    self: RendererHTML, tokens: Sequence[Token], place: int, options: OptionsDict, env: EnvType
) -> str:
    return draw_code(tokens[place].content, tokens[place].info.strip()) + "\n"


def draw_code(code: str, info: str = "") -> SafeString:
    """A block of code that can be copied, and scrolled with keys; `info` names its language."""
    drawn = escape(code)
    if info and len(code) <= CODE_LENGTH:
        try:
            lexer = get_lexer_by_name(info.split()[0], stripnl=False, ensurenl=False)
            drawn = highlight(code, lexer, _formatter)
            # Pygments ends each line with a break
            drawn = drawn if code.endswith("\n") else drawn.removesuffix("\n")
        except ClassNotFound:
            pass
    language = f'<span class="language">{escape(info)}</span>' if info else ""
    word = re.match(r"[\w+#.-]+", info)
    name = f"code, {escape(word[0])}" if word else "code"
    return mark_safe(  # noqa: S308 - all of it is escaped
        f'<div class="code-block">{language}<button type="button" class="copy">copy</button>'
        f'<pre dir="auto" {_scrolled(name)}><code>{drawn}</code></pre></div>'
    )


def _scrolled(name: str) -> str:
    """What may be wider than the page takes the focus, so that keys scroll it, and says what it is."""
    return f'tabindex="0" role="group" aria-label="{name}"'


def _parser() -> MarkdownIt:
    options: Any = {"html": False, "linkify": False, "breaks": True, "maxNesting": NESTING}
    parser = (
        MarkdownIt("commonmark", options)
        .enable(["table", "strikethrough"])
        .disable(["reference", "entity", "lheading"])
    )
    parser.use(tasklists_plugin, label=False)
    inline, block = parser.inline.ruler, parser.block.ruler
    inline.at("escape", _escape_kept)
    inline.before("escape", "math", _math_inline)
    inline.at("emphasis", _emphasis)
    inline.at("link", _with_address(link_rule, "link"))
    inline.at("image", _with_address(image_rule, "image"))
    block.before("fence", "math", _math_block, {"alt": ["paragraph", "blockquote", "list"]})
    parser.core.ruler.push("annotate", _annotate_blocks)
    # addresses stay as written
    parser.normalizeLink = str  # type: ignore[method-assign, assignment]
    parser.normalizeLinkText = str  # type: ignore[method-assign, assignment]
    for name, draw in (
        ("math", _draw_content),
        ("link_close", _draw_link_close),
        ("image", _draw_image),
        ("fence", _draw_code),
        ("code_block", _draw_code),
        ("table_open", _draw_table),
        ("table_close", _draw_table),
    ):
        parser.add_render_rule(name, draw)
    return parser


_MARKDOWN = _parser()
