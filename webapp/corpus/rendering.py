"""Response text is hostile, and it is what is measured: Markdown drawn without hiding what tells two texts apart.

Raw HTML is escaped, then the page's part is sanitised (nh3).  What plain Markdown would swallow stays in sight:
reference definitions, backslashes, entities, addresses and titles of links, languages of code blocks, numbers of lists.
Whatever is lost all the same (a cell too many in a table) makes the text be shown as it was written.
"""

import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
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

# A formula longer than this, or code longer than that, is shown as written: both are drawn while somebody waits.
FORMULA_LENGTH = 4000
CODE_LENGTH = 20_000
NESTING = 100
# Words of one text times words of the other, above which differences are not looked for.
COMPARED = 2_000_000

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
    **{tag: {"class"} for tag in ("code", "span", "div")},
    "ol": {"dir", "start"},
    "li": {"dir", "class", "value"},
    "pre": {"dir", "class", "tabindex"},
    "a": {"href"},
    "button": {"class", "type"},
    "input": {"type", "checked", "disabled", "class", "aria-label"},
    **dict.fromkeys(_MATHML, _MATHML_ATTRIBUTES),
}  # fmt: skip
# What Markdown may turn into form: marks of emphasis, lists, tables. All else has to be in the page as in the text.
_MARKS = frozenset(string.punctuation) - {"\\", "&"}

_mathml = LatexToMathML()
_formatter = HtmlFormatter(nowrap=True, classprefix="hl-")


def render_markdown(text: str) -> SafeString:
    """HTML of a Markdown text that is safe to put in a page, and that loses no word of it."""
    try:
        html = _clean(_MARKDOWN.render(text))
    except RecursionError:
        return as_written(text)
    read = _Reader.read(html)
    if _marked(text) != _marked(read) or (text and not _visible(read)):
        return as_written(text)
    return mark_safe(html)  # noqa: S308 - _clean sanitised it


_FORMS = re.compile(r"[*_`#\[|~>$\\]|^\s*(?:[-+=]|\d+[.)])", re.MULTILINE)


def one_line(text: str, words: int) -> str:
    """The first words of a text for a list, without the marks of Markdown but with every word; "…" where it goes on."""
    # Some more than is shown, so that what encloses the last words is read whole.
    beginning = text[: words * 40]
    read = beginning
    if _FORMS.search(beginning):
        try:
            html = _clean(_MARKDOWN.render(beginning))
            # A list's number and a code's language are words of their own.
            html = re.sub(r'(<li[^>]* value="\d+"[^>]*>)', r"\1. ", html).replace("<button", " <button")
            read = _Reader.read(html)
        except RecursionError:
            pass
        if _marked(beginning) != _marked(read) or not _visible(read):
            read = beginning
    shown = read.split()
    # Some scripts have no spaces.
    line = " ".join(shown[:words])[: words * 12]
    whole = len(beginning) == len(text) and line == " ".join(shown)
    return line if whole else f"{line} …"


def as_written(text: str, rival: str = "") -> SafeString:
    """The text itself, every character of it, white space at line ends in sight.

    With a rival the words in which the two differ are marked.
    """
    pieces = _differing(text, rival) if rival and rival != text else [(text, False)]
    shown = [_seen(part) for part, _ in pieces[:-1]] + [_seen(part, last=True) for part, _ in pieces[-1:]]
    body = "".join(
        f"<mark>{part}</mark>" if differs else part for part, (_, differs) in zip(shown, pieces, strict=True)
    )
    return mark_safe(f'<pre class="as-written" dir="auto" tabindex="0">{body}</pre>')  # noqa: S308 - escaped


def _seen(text: str, *, last: bool = False) -> str:
    """Escaped, with white space before a line's end, and what has no shape, as visible signs; the last piece of a
    text ends a line."""
    unseen = _UNSEEN_LAST if last else _UNSEEN
    return unseen.sub(lambda found: f'<span class="unseen">{_shape(found[0])}</span>', escape(text))


_SHAPELESS = r"[\u200b-\u200f\u2028\u2029\u202a-\u202e\u2060-\u2069\ufeff\x00-\x08\x0b-\x1f\x7f]+"
_UNSEEN = re.compile(rf"[ \t\u00a0]+(?=\n)|{_SHAPELESS}")
_UNSEEN_LAST = re.compile(rf"[ \t\u00a0]+(?=\n|\Z)|{_SHAPELESS}")


def _shape(signs: str) -> str:
    shown = {" ": "·", "\t": "→\t", "\u00a0": "⍽"}
    return "".join(shown.get(sign, f"[U+{ord(sign):04X}]") for sign in signs)


def _differing(text: str, rival: str) -> list[tuple[str, bool]]:
    """The text in pieces, each with whether the rival says it otherwise, word by word."""
    mine, other = _WORDS.findall(text), _WORDS.findall(rival)
    if len(mine) * len(other) > COMPARED:
        return [(text, False)]
    blocks = SequenceMatcher(None, mine, other, autojunk=False).get_matching_blocks()
    pieces: list[tuple[str, bool]] = []
    place = 0
    for block in blocks:
        pieces += [
            ("".join(mine[place : block.a]), True),
            ("".join(mine[block.a : block.a + block.size]), False),
        ]
        place = block.a + block.size
    return [(part, differs) for part, differs in pieces if part]


# White space goes with the word before it: as a word of its own it would be in all places, and finding matches slow.
_WORDS = re.compile(r"\w+\s*|[^\w\s]\s*|\s+")


def look_alike(first: str, second: str) -> bool:
    """Whether two different texts would be drawn alike ("* a" and "- a"), so that nobody could tell them apart."""
    if first == second or _visible("".join(_marked(first))) != _visible("".join(_marked(second))):
        return False
    return _look(first) == _look(second)


def _look(text: str) -> str:
    """The drawn text as an eye sees it: outside code white space is one gap, and signs without shape are none."""
    parts = re.split(r"(<pre.*?</pre>)", render_markdown(text), flags=re.DOTALL)
    parts[::2] = (re.sub(r"\s+", " ", part) for part in parts[::2])
    return "".join(sign for sign in "".join(parts) if unicodedata.category(sign) != "Cf")


def _visible(text: str) -> str:
    return "".join(sign for sign in text if not sign.isspace() and unicodedata.category(sign) != "Cf")


def _clean(html: str) -> str:
    return nh3.clean(
        _TASK.sub(
            lambda found: f'<input aria-label="{"done" if found[1] else "not done"}"{found[0][6:]}', html
        ),
        tags=_TAGS | _MATHML,
        attributes=_ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )


_TASK = re.compile(r'<input class="task-list-item-checkbox"( checked)?')


def _marked(text: str) -> list[str]:
    """The characters that have to survive, in order."""
    return [sign for sign in text if sign not in _MARKS and not sign.isspace()]


class _Reader(HTMLParser):
    """What a person can read of a drawn text: its words, the numbers of lists, ticked tasks, formulas as written."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._math = self._button = self._annotation = False

    @classmethod
    def read(cls, html: str) -> str:
        reader = cls()
        reader.feed(html)
        reader.close()
        return "".join(reader.parts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "li" and given.get("value"):
            self.parts.append(str(given["value"]))
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


# --- Rules: what the parser does otherwise than CommonMark -----------------------------------------------------


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
        if before.isalnum() or behind.isalnum() or behind == "$":
            return False
    html = _formula(source[start:after], latex, block=opening in ("$$", "\\["))
    if html is None:
        return False
    if not silent:
        token = state.push("math", "", 0)
        token.content = html
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
            f'<div class="formula">{html}</div>\n',
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
    for token in state.tokens:
        if token.nesting == 1 and token.tag in _BLOCKS:
            token.attrSet("dir", "auto")
        if token.type == "list_item_open" and token.info:
            token.attrSet("value", str(int(token.info)))  # "01." is not "1.": shown as written


# --- Drawing ---------------------------------------------------------------------------------------------------


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
    """A box with its address: a picture that were loaded would tell a third party who reads what."""
    meta = tokens[place].meta
    return f'<span class="picture">{escape(meta["label"])}<span class="address">{escape(meta["written"])}</span></span>'


def _draw_code(
    self: RendererHTML, tokens: Sequence[Token], place: int, options: OptionsDict, env: EnvType
) -> str:
    token = tokens[place]
    code, info = token.content, token.info.strip()
    drawn = escape(code)
    if info and len(code) <= CODE_LENGTH:
        try:
            lexer = get_lexer_by_name(info.split()[0], stripnl=False, ensurenl=False)
            drawn = highlight(code, lexer, _formatter)
        except ClassNotFound:
            pass
    language = f'<span class="language">{escape(info)}</span>' if info else ""
    return (
        f'<div class="code-block">{language}<button type="button" class="copy">copy</button>'
        f'<pre dir="auto" tabindex="0"><code>{drawn}</code></pre></div>\n'
    )


def _parser() -> MarkdownIt:
    options: Any = {"html": False, "linkify": False, "breaks": True, "maxNesting": NESTING}
    parser = (
        MarkdownIt("commonmark", options).enable(["table", "strikethrough"]).disable(["reference", "entity"])
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
    ):
        parser.add_render_rule(name, draw)
    return parser


_MARKDOWN = _parser()
