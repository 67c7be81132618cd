"""What is drawn on a card loses nothing that tells two texts apart, and nothing hostile passes."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import shared_case
from webapp.corpus import rendering
from webapp.corpus.rendering import as_written, look_alike, render_markdown


def case(name: str) -> list[dict[str, str]]:
    path = shared_case(f"{name}.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


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
    assert not look_alike("    a\n     b", "    a\n        b")
    assert not look_alike("a", "a")
    assert "<mark>13 </mark>" in as_written("it is 13 now", "it is 12 now")
    assert 'data-sign="··">  </span>' in as_written("end  ")


def test_long_texts_are_drawn_in_time() -> None:
    import time

    for text in ("\\(" * 60_000, "*a" * 60_000, "$x" * 60_000, "[" * 5_000, "`" * 60_000, "- a\n" * 20_000):
        began = time.monotonic()
        render_markdown(text)
        assert time.monotonic() - began < 8, text[:10]
