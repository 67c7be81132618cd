"""How texts look on the card: mathematics, code, Arabic, tool calls, long prompts and pictures, at both widths."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]

from webapp.accounts.models import User
from webapp.corpus.conversations import answer_text
from webapp.corpus.models import Pair, Project, Prompt, Response, messages_digest, text_digest
from webapp.labels.models import Judgement

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
ANNOTATE = "/p/capitals/annotate/"
LAPTOP, PHONE = {"width": 1440, "height": 900}, {"width": 360, "height": 740}

CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city":"Oslo","days":1.50,"city":"Rome"}'},
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
PROMPT: list[dict[str, Any]] = [
    {"role": "system", "content": "You are a **helpful** assistant.\n\n" + "Answer with care.\n" * 30},
    {"role": "user", "content": "Weather in Oslo?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": '{"degrees":7,"sky":"rain"}'},
    {"role": "user", "content": "And in words, with a formula, please?"},
]
WIDE = "x = " + " + ".join(f"a_{{{n}}} b^{{{n}}}" for n in range(40))
CODE = "def weather(city: str) -> float:\n    return 7.0  # " + "a long remark " * 20 + "\n"
MIXED = f"""Seven degrees, since $\\int_0^1 x^2\\,dx = \\frac13$ and

$${WIDE}$$

```python
{CODE}```

| city | degrees | {" | ".join(f"column{n}" for n in range(14))} |
|---|---|{"---|" * 14}
| Oslo | 7 | {" | ".join("word" for _ in range(14))} |

- [x] looked it up
- [ ] went there

"""
ARABIC = "# الطقس\n\nدرجة الحرارة في Oslo هي 7.\n\n- أوسلو\n- روما!\n\n" + "سطر طويل من النص العربي.\n\n" * 40


def pair_of(
    project: Project,
    messages: list[dict[str, Any]],
    answers: list[str | list[dict[str, Any]]],
    *,
    tools: list[Any] | None = None,
) -> Pair:
    prompt = Prompt.objects.create(
        project=project,
        external_id="p",
        messages=messages,
        tools=tools or [],
        digest=messages_digest(messages, tools),
    )
    sides = []
    for place, answer in enumerate(answers):
        text = answer if isinstance(answer, str) else answer_text(answer)
        sides.append(
            Response.objects.create(
                project=project,
                prompt=prompt,
                external_id=f"r{place}",
                text=text,
                messages=None if isinstance(answer, str) else answer,
                digest=text_digest(text),
            )
        )
    first, second = sides
    return Pair.objects.create(
        project=project, external_id="x", response_a=first, response_b=second, wanted=2
    )


def overflows(page: Any) -> bool:
    wide: bool = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    return wide


def findings(page: Any) -> list[str]:
    """What axe-core says of the card's texts."""
    found = Axe().run(page, context=".judge .conversation, .judge .answers").response["violations"]
    return [f"{entry['id']}: {entry['nodes'][0]['html'][:120]}" for entry in found]


def top_of(page: Any, selector: str) -> float:
    top: float = page.locator(selector).evaluate("element => element.getBoundingClientRect().top")
    return top


@pytest.fixture
def mixed(project: Project, annotator: User) -> Pair:
    """Mathematics, code, tables and a tool call beside Arabic, under a long prompt with tools."""
    turns: list[dict[str, Any]] = [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "name": "weather", "content": "7 C\n- not a list"},
        {"role": "assistant", "content": MIXED + "A line of the answer.\n\n" * 30},
    ]
    return pair_of(project, PROMPT, [turns, ARABIC], tools=TOOLS)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_a_card_of_all_kinds(
    page_of: Callable[..., Any], mixed: Pair, annotator: User, size: dict[str, int], scheme: str
) -> None:
    page = page_of(annotator, **size, color_scheme=scheme, has_touch=size is PHONE)
    page.goto(ANNOTATE)
    # the prompt begins with its last turn
    assert page.locator(".conversation > .turn").count() == 1
    assert page.get_by_text("And in words, with a formula").first.is_visible()
    earlier = page.locator("details.earlier")
    assert "4 earlier turns" in earlier.inner_text()
    assert not page.get_by_text("Weather in Oslo?").first.is_visible()
    earlier.locator("> summary").click()
    assert page.get_by_text("Weather in Oslo?").first.is_visible()
    # the call with each argument as it was given, the result under its tool's name, the tools on offer
    call = earlier.locator(".part-call .drawn pre")
    assert call.inner_text() == '{\n  "city": "Oslo",\n  "days": 1.50,\n  "city": "Rome"\n}'
    assert "calls weather" in earlier.inner_text()
    assert "result of weather" in earlier.inner_text()
    assert page.locator("details.tools summary").inner_text() == "1 tool offered: weather"
    # the answer's own turns; a tool's result is no Markdown
    answer = page.locator(".answer", has=page.locator(".turn-tool"))
    assert answer.locator(".part-result .drawn pre").inner_text() == "7 C\n- not a list"
    assert answer.locator("math").count() == 2
    assert answer.locator(".drawn .hl-k").first.inner_text() == "def"
    assert answer.locator("input[type=checkbox]").count() == 2
    arabic = page.locator(".answer .drawn p", has_text="درجة الحرارة")
    assert arabic.evaluate("element => getComputedStyle(element).direction") == "rtl"
    item = page.locator(".answer .drawn li", has_text="أوسلو")
    assert item.evaluate("each => getComputedStyle(each.parentElement).direction") == "rtl"
    # the source view: the call as it is stored
    view = page.get_by_role("button", name="As written")
    assert size is LAPTOP or view.bounding_box()["height"] >= 44
    view.click()
    assert json.loads(answer.locator(".part-call .written").inner_text()) == CALL
    page.get_by_role("button", name="As written").click()
    assert not overflows(page)
    assert findings(page) == []
    # each wide thing scrolls by keys
    for wide in (".formula", ".table-scroll", ".code-block:has(.hl-k) pre"):
        region = answer.locator(f".drawn {wide}").first
        region.focus()
        assert region.get_attribute("aria-label")
        page.keyboard.press("ArrowRight")
        page.wait_for_function("element => element.scrollLeft > 0", arg=region.element_handle())
    # both letters, or on a telephone the one of the answer that is read, stay in sight
    for letter in page.locator(".answer > h2").all():
        letter.evaluate(
            "element => window.scrollTo(0, scrollY + element.parentElement.getBoundingClientRect().top + 400)"
        )
        shown = [other for other in page.locator(".answer > h2").all() if abs(top(other)) < 1]
        assert len(shown) == (2 if size is LAPTOP else 1)
        assert top(letter) == pytest.approx(0, abs=1)


def top(locator: Any) -> float:
    return float(locator.evaluate("element => element.getBoundingClientRect().top"))


def test_keys_go_to_prompt_and_answers(page: Any, mixed: Pair) -> None:
    page.goto(ANNOTATE)
    seen = []
    for key in "jjjjkkk":
        page.keyboard.press(key)
        seen.append(
            page.evaluate(
                """() => document.activeElement.getAttribute("aria-label")
                || document.getElementById(document.activeElement.getAttribute("aria-labelledby")).textContent.trim()"""
            )
        )
    assert seen == ["Prompt", "Response A", "Response B", "Response B", "Response A", "Prompt", "Prompt"]
    page.keyboard.press("?")
    assert page.locator("#keys").get_by_text("on to the prompt, A and B, or back").is_visible()
    page.keyboard.press("Escape")
    # from the prompt a verdict and Enter save, as ever
    page.keyboard.press("t")
    page.keyboard.press("2")
    page.keyboard.press("2")
    page.locator("#receipt-text .saved").wait_for()


def test_enter_saves_after_a_click_on_a_fold_and_on_copy(
    page: Any, project: Project, annotator: User
) -> None:
    Project.objects.update(asks=Project.Asks.PAIRS)
    long = "".join(f"line {number}\n" for number in range(1, 401))
    pair_of(project, [{"role": "user", "content": long}], [f"```python\n{CODE}```", "7"])
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(ANNOTATE)
    body = page.locator(".turn-body.long")
    assert body.bounding_box()["height"] < 450
    fold = page.get_by_text("Show all, about 400 lines")
    fold.click()
    assert body.bounding_box()["height"] > 5000
    page.get_by_text("Show less").click()
    assert body.bounding_box()["height"] < 450
    page.keyboard.press("o")
    assert body.bounding_box()["height"] > 5000
    page.keyboard.press("o")
    page.locator(".drawn .copy").click()
    page.get_by_role("button", name="copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == CODE
    page.get_by_role("button", name="As written").click()
    page.keyboard.press("t")
    page.keyboard.press("Enter")
    page.locator("#receipt-text .saved").wait_for()
    assert Judgement.objects.get().verdict == "tie"


def test_what_is_copied_from_the_source_view_is_the_text(page: Any, project: Project) -> None:
    text = "\n  one \t\n\ttwo\u00a0\u200b\n\n"
    pair_of(project, [{"role": "user", "content": "q"}], [text, "one two"])
    page.goto(ANNOTATE)
    assert page.get_by_text("A and B differ only in signs that look alike").count() == 2
    shown = page.locator(".answer .written pre").evaluate_all("all => all.map(each => each.textContent)")
    assert sorted(shown) == sorted([text, "one two"])


PICTURE = "![a cat](https://pictures.example/cat.png)"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.mark.parametrize("loads", [False, True])
def test_pictures_are_loaded_where_the_project_says_so(
    page: Any, project: Project, live_server: Any, loads: bool
) -> None:
    Project.objects.update(load_images=loads)
    data = "data:image/png;base64," + base64.b64encode(PIXEL).decode()
    ours = live_server.url.replace("http:", "https:")
    pair_of(
        project,
        [{"role": "user", "content": "q"}],
        [
            f"{PICTURE} ![dot]({data})",
            f"![ours]({ours}/p/capitals/annotate/) ![plain](http://pictures.example/b.png) "
            "![svg](https://pictures.example/c.svg) ![local](https://127.0.0.1/d.png)",
        ],
    )
    asked: list[tuple[str, str | None]] = []

    def answer(route: Any) -> None:
        asked.append((route.request.url, route.request.headers.get("referer")))
        route.fulfill(body=PIXEL, content_type="image/png")

    page.route(lambda url: not url.startswith(live_server.url), answer)
    page.goto(ANNOTATE)
    page.get_by_text("(https://pictures.example/cat.png)").first.wait_for()
    if not loads:
        assert page.locator(".judge img").count() == 0
        assert asked == []
        return
    page.wait_for_function(
        "() => [...document.querySelectorAll('.judge img')].every(image => image.naturalWidth === 1)"
    )
    assert page.locator(".judge img").evaluate_all("all => all.map(each => each.alt)") == ["a cat", "dot"]
    assert asked == [("https://pictures.example/cat.png", None)]
