"""What is drawn on a card loses nothing that tells two texts apart, and nothing hostile passes."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import shared_case
from webapp.corpus import rendering
from webapp.corpus.rendering import Images, plain_sides, plain_text, render_markdown
from webapp.corpus.turns import answer_of
from webapp.corpus.written import as_written, likeness


def case(name: str) -> list[dict[str, str]]:
    path = shared_case(f"{name}.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def look_alike(first: str, second: str) -> bool:
    return answer_of({"text": first}, {"text": second}).alike


def words(html: str) -> str:
    """What a person reads, as the page's own check reads it."""
    return rendering._Reader.read(html)


def test_texts_that_markdown_swallowed_can_be_told_from_their_rivals() -> None:
    rows = {row["id"]: row for row in case("08-markdown-swallowed")}
    for row in rows.values():
        if row["type"] == "pair":
            a, b = (rows[row[side]]["text"] for side in ("a", "b"))
            assert words(render_markdown(a)) != words(render_markdown(b)), (a, b)
            assert not look_alike(a, b)
    assert "[Answer]: 42" in render_markdown(rows["a1"]["text"])
    assert "<math" in render_markdown(rows["a3"]["text"])
    assert "&amp;lt;" in render_markdown(rows["a4"]["text"])
    assert "__init__ with 2*3*4" in render_markdown(rows["a5"]["text"])


def test_every_block_finds_its_own_direction() -> None:
    for row in case("15-rtl"):
        if "text" in row:
            html = render_markdown(row["text"])
            opened = re.findall(r"<(?:p|li|h\d|ul|ol|pre|blockquote|td|th)\b[^>]*>", html)
            assert opened
            assert all('dir="auto"' in tag for tag in opened)
    for mark in ("- {}", "1. {}", "> {}", "| {} | x |\n|---|---|\n| a | b |"):
        assert 'dir="rtl"' in render_markdown(mark.format("(1) باريس Paris"))
        assert 'dir="rtl"' not in render_markdown(mark.format("(1) Paris باريس"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[//]: # (hidden words)", "[//]: # (hidden words)"),
        ("[a](http://x.y/z 'a title')", "(http://x.y/z 'a title')"),
        ("![alt words](http://x.y/i.png)", "(http://x.y/i.png)"),
        ("<http://x.y/%C3%A4>", "http://x.y/%C3%A4"),
        ("a\\*b\\*", "a\\*b\\*"),
        ("C:\\new\\_dir", "C:\\new\\_dir"),
        ("line\\\nnext", "line\\"),
        ("```python {1}\nx\n```", "python {1}"),
        ("```\n  kept  \n```", "  kept  "),
        ("1. a\n1. b", 'value="1">b'),
        ("7) a", 'value="7"'),
        ("f(*args, **kwargs)", "f(*args, **kwargs)"),
        ("2**3**4", "2**3**4"),
        ("_emphasis_ and __init__", "_emphasis_ and __init__"),
        ("&amp; &#65; &nbsp;", "&amp;amp; &amp;#65; &amp;nbsp;"),
        ("costs $5 or $10", "costs $5 or $10"),
        ("between $5 and 10$", "between $5 and 10$"),
        ("**$5** and **$6**, US$7-US$8, ($9)-($10)", "US$7-US$8, ($9)-($10)"),
        ("[^1]: a note\n\nsee[^1]", "see[^1]"),
        ("<!-- a comment -->", "&lt;!-- a comment --&gt;"),
        ("a text\n---\nmore", '<p dir="auto">a text</p>\n<hr>'),
        ("a text\n===", "==="),
        ("3. a\n4. b", 'value="4">b'),
        ("\U0001f469\u200d\U0001f467 family", "\U0001f469\u200d\U0001f467 family"),
        ("\u202eba", "[U+202E]"),
        ("\u3164", "[U+3164]"),
        ("&lt;b&gt; <http://x.y>", "&amp;lt;b&amp;gt;"),
        ("$HOME:$PATH", "$HOME:$PATH"),
        ("$\\unknowncommand{x}$", "$\\unknowncommand{x}$"),
        ("<b>raw</b>", "&lt;b&gt;raw&lt;/b&gt;"),
        ("> " * 150 + "deep", "deep"),
        ("| a |\n|---|\n| 1 | a cell too many |", "a cell too many"),
        ("01. a", "01. a"),
        ("\u200b", "[U+200B]"),
        ("   ", "···"),
        ("这是**粗体**文字", "<strong>粗体</strong>"),
        ("- [x] done", 'checked="checked"'),
    ],
)
def test_nothing_is_swallowed(text: str, expected: str) -> None:
    assert expected in render_markdown(text)


@pytest.mark.parametrize(
    "text",
    ["$x^2$", "$$\nx\n- 1\n= 2\n$$", "\\(a < b\\)",
     "\\[\n\\begin{aligned}a &= b\\\\ c &= d\\end{aligned}\n\\]", "so $$x$$ is"],
)  # fmt: skip
def test_formulas_are_drawn_with_their_source(text: str) -> None:
    html = render_markdown(text)
    assert html.count("<math") == 1
    assert " style=" not in html
    assert words(html).strip("\n").replace("\n", "") == text.replace("\n", "")


def test_code_is_highlighted_and_kept() -> None:
    code = "def f(x):\n\treturn x  # &lt;\n\n\n"
    html = render_markdown(f"```python\n{code}```")
    assert '<span class="hl-k">def</span>' in html
    assert code in words(html)
    assert 'tabindex="0"' in html


@pytest.mark.parametrize(
    "text",
    [
        "[a](javascript:alert(1))",
        "![a](javascript:alert(1))",
        "<script>alert(1)</script>",
        "$\\href{javascript:alert(1)}{x}$",
        "$</annotation></semantics></math><script>alert(1)</script>$",
        "```<img src=x onerror=alert(1)>\nx\n```",
        "<a href='x' onclick='alert(1)'>x</a>",
        "[a](http://x/\"onmouseover='alert(1)')",
        "$\\text{<img src=x onerror=alert(1)>}$",
    ],
)
def test_nothing_hostile_passes(text: str) -> None:
    html = render_markdown(text)
    for tag in re.findall(r"<[^>]*>", html):
        assert not re.search(r"<(script|img|iframe|style|svg)|\son\w+=|javascript:", tag, re.IGNORECASE), tag


MARKUP = st.text(
    st.sampled_from("ab1 \n\t*_`~#>-+|[]()!$\\&;:.<>\"'{}^=xé中ع\u200d\u00a0🙂"), max_size=60
) | st.text(max_size=60)


@settings(max_examples=250, deadline=None)
@given(text=MARKUP)
def test_every_word_of_any_text_is_in_the_page(text: str) -> None:
    """The check inside render_markdown by another hand: whatever is not a mark of form is there, in order."""
    html = render_markdown(text)
    if 'class="unseen"' in html or "as-written" in html:
        return
    kept = [sign for sign in words(html) if sign.isalnum()]
    assert kept == [sign for sign in text if sign.isalnum()]


@settings(max_examples=100, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs", "Cc", "Cf", "Zs", "Zl", "Zp"]), max_size=40),
    rival=MARKUP,
)
def test_as_written_is_the_text(text: str, rival: str) -> None:
    assert words(as_written(text, rival)) == text


@settings(max_examples=120, deadline=None)
@given(first=MARKUP, second=MARKUP)
def test_pairs_that_look_alike_are_found(first: str, second: str) -> None:
    if first != second and render_markdown(first) == render_markdown(second):
        assert look_alike(first, second)


def test_texts_drawn_alike_are_shown_as_written_with_their_difference() -> None:
    assert look_alike("* a", "- a")
    assert look_alike("a b", "a  b")
    assert look_alike("a", "a \n")
    assert look_alike("ab", "a\u200bb")
    assert look_alike("**a** **b**", "**a b**")
    assert look_alike("$x+1$", "$x + 1$")
    assert look_alike("\\(x\\)", "$x$")
    assert look_alike("paypal", "p\u0430ypal")
    assert look_alike("don't", "don\u2019t")
    assert look_alike("é", "e\u0301")
    assert look_alike("```\na\tb\n```", "```\na   b\n```")
    assert look_alike("```\na \n```", "```\na\n```")
    assert not look_alike("# a", "## a")
    assert not look_alike("1. a", "1) a")
    assert not look_alike("$x^2$", "$x_2$")
    assert not look_alike("~~a b~~", "~~a~~ ~~b~~")
    assert not look_alike("    a\n     b", "    a\n        b")
    assert not look_alike("a", "a")
    assert "<mark>13 </mark>" in as_written("it is 13 now", "it is 12 now")
    assert 'data-sign="··">  </span>' in as_written("end  ")


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ("a b", "a  b\n", "space"),
        ("- a\n- b", "- a\n\n- b", "space"),
        ("a\u00a0b", "a b", "space"),
        ("a\r\nb", "a\nb", "space"),
        ("p\u0430y", "pay", "signs"),
        ("a\u200b", "a", "signs"),
        ("\uff21\uff22\uff1f", "AB?", "signs"),
        ("5 \u2013 3", "5 - 3", "signs"),
        ("yes", "no", ""),
        ("a", "a", ""),
    ],
)
def test_texts_that_differ_in_space_or_look_alikes_only(first: str, second: str, found: str) -> None:
    assert likeness(first, second) == likeness(second, first) == found


def test_what_cannot_be_seen_is_shown_where_it_is_the_difference() -> None:
    assert 'data-sign="·"> </span></mark>' in as_written("a b", "a\u00a0b")
    assert 'data-sign="⍽">\u00a0</span></mark>' in as_written("a\u00a0b", "a b")
    assert 'data-sign="[U+0430]"' in as_written("p\u0430y", "pay")
    assert as_written("end\n").count('data-sign="↵"') == 1
    assert "[U+200C]" not in as_written("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645")
    assert "[U+200C]" in as_written("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u062e")


def test_what_differs_in_long_texts_is_marked() -> None:
    words_of = [f"word{number}" for number in range(20_000)]
    other = list(words_of)
    other[10_000] = "another"
    assert as_written(" ".join(words_of), " ".join(other)).count("<mark>") == 1
    assert "<mark>" in as_written(" ".join(words_of), " ".join(reversed(words_of)))


@pytest.mark.parametrize(
    ("address", "loaded"),
    [
        ("https://pictures.example/a.png", True),
        ("https://pictures.example:8443/a?b=c#d", True),
        ("https://xn--bcher-kva.example/a.webp", True),
        ("data:image/png;base64,iVBORw0KGgo=", True),
        ("http://pictures.example/a.png", False),
        ("//pictures.example/a.png", False),
        ("/p/capitals/annotate/", False),
        ("a.png", False),
        ("https://pictures.example/a.svg", False),
        ("https://pictures.example/a.SVG?x", False),
        ("data:image/svg+xml;base64,AAAA", False),
        ("data:text/html;base64,AAAA", False),
        ("data:image/png;base64," + "A" * 400_000, False),
        ("https://caliper.example/a.png", False),
        ("https://CALIPER.example/a.png", False),
        ("https://www.caliper.example/a.png", False),
        ("https://caliper.example:444/a.png", False),
        ("https://caliper.example./a.png", False),
        ("https://user@pictures.example/a.png", False),
        ("https://pictures.example\\@caliper.example/a.png", False),
        ("https://127.0.0.1/a.png", False),
        ("https://2130706433/a.png", False),
        ("https://0x7f.0x1/a.png", False),
        ("https://[::1]/a.png", False),
        ("https://localhost/a.png", False),
        ("javascript:alert(1)", False),
    ],
)
def test_pictures_are_loaded_from_other_sites_alone(address: str, loaded: bool) -> None:
    html = render_markdown(f"![a <b> picture]({address})", Images(own=("caliper.example",)))
    tags = re.findall(r"<img.*?>", html)
    assert bool(tags) == loaded
    if loaded:
        assert 'loading="lazy"' in html
        assert 'referrerpolicy="no-referrer"' in html
        assert f'src="{address}"' in html
    assert address.rpartition("/")[2][:50] in words(html)
    assert "<img" not in render_markdown(f"![a]({address})")


def test_no_link_leads_to_data() -> None:
    assert "href" not in render_markdown("[a](data:image/png;base64,AAAA)", Images())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("**Mild**: it\n\n- is `so`", "Mild: it is so"),
        ("# Title\n1. one\n2) two", "Title 1. one 2) two"),
        ("__init__ & 2*3*4 [Ann]: x", "__init__ & 2*3*4 [Ann]: x"),
        ("$x^2$ is", "$x^2$ is"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", "a b 1 2"),
        ("plain\ttext  of   gaps", "plain text of gaps"),
        ("", ""),
    ],
)
def test_lists_show_plain_words(text: str, line: str) -> None:
    assert plain_text(text, 20) == line
    assert plain_text("word " * 50, 3) == "word word word …"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("**Yes**", "No", ("Yes", "No")),
        ("- a", "* a", ("- a", "* a")),
        ("same", "same", ("same", "same")),
        ("a  b", "a b", ("a b (white space differs)", "a b (white space differs)")),
        (
            "pay",
            "p\u0430y",
            ("pay (signs that look alike differ)", "p\u0430y (signs that look alike differ)"),
        ),
        ("", "x", ("", "x")),
    ],
)
def test_lists_tell_two_texts_apart(first: str, second: str, expected: tuple[str, str]) -> None:
    assert plain_sides(first, second, 5) == expected


def test_lists_show_long_texts_from_their_first_difference() -> None:
    start = "word " * 200
    one, two = plain_sides(start + "it is one.", start + "it is two.", 12)
    assert one.startswith("… word")
    assert "it is one." in one
    assert "it is two." in two


def test_long_texts_are_drawn_in_time() -> None:
    import time

    for text in ("\\(" * 60_000, "*a" * 60_000, "$x" * 60_000, "[" * 5_000, "`" * 60_000, "- a\n" * 20_000):
        began = time.monotonic()
        render_markdown(text)
        assert time.monotonic() - began < 8, text[:10]
