"""The annotate page in a real browser: keys, the cards fetched ahead, undo, a lost connection, a phone."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from webapp.accounts.models import User
from webapp.corpus.models import Project, Prompt
from webapp.corpus.services import project_save
from webapp.labels.models import Assignment, Judgement, QualityLabel
from webapp.labels.queue import assignments_for
from webapp.labels.services import judgement_submit

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
ANNOTATE = "/p/capitals/annotate/"


@pytest.fixture
def cards(project: Project, make_prompt: Callable[..., Prompt]) -> Project:
    """Six pairs."""
    make_prompt(
        project, "capital", ["The capital is **Paris**.", "Lyon.", "I don't know.", "`Paris`, of course."]
    )
    return project


def key_in_sight(page: Any) -> str:
    key: str = page.locator(".judge:not([hidden])").get_attribute("data-key")
    return key


def wait_saved(page: Any) -> None:
    page.locator("#receipt-text .saved").wait_for()


def wait_for_other_card(page: Any, key: str) -> None:
    page.wait_for_function(
        "key => ![null, undefined, key].includes(document.querySelector('.judge:not([hidden])')?.dataset.key)",
        arg=key,
    )


def wait_until_sent(page: Any, count: int) -> None:
    """Until the page says that `count` cards are judged."""
    page.locator("#progress", has_text=re.compile(rf"You: {count} judged")).wait_for()


def test_a_judgement_in_three_keys(page: Any, cards: Project, annotator: User) -> None:
    page.goto(ANNOTATE)
    first = key_in_sight(page)
    for key in "a31":
        page.keyboard.press(key)
    wait_saved(page)
    receipt = page.locator("#receipt-text").inner_text()
    assert re.fullmatch(r"Saved \d\d:\d\d:\d\d", receipt.strip())
    assert key_in_sight(page) != first
    judgement = Judgement.objects.get()
    assert str(judgement.assignment.key) == first
    assert judgement.verdict == judgement.left
    assert judgement.strength is None
    assert judgement.shown_at < judgement.created_at
    left, right = judgement.pair.response_a_id, judgement.pair.response_b_id
    if judgement.left == "b":
        left, right = right, left
    assert dict(QualityLabel.objects.values_list("response_id", "level")) == {left: "good", right: "bad"}


def test_all_cards_by_keys_until_nothing_is_left(page: Any, cards: Project, annotator: User) -> None:
    page.goto(ANNOTATE)
    for number, keys in enumerate(["a21", "bbb13", "t22", "x11", "s", "bb23"], start=1):
        before = key_in_sight(page)
        for key in keys:
            page.keyboard.press(key)
        if number < 6:
            wait_for_other_card(page, before)
    page.get_by_role("heading", name="All done for now").wait_for()
    rows = list(Judgement.objects.order_by("pk"))
    assert sorted(row.verdict for row in rows if row.verdict not in "ab") == ["both_bad", "skip", "tie"]
    assert sorted(row.strength or 0 for row in rows) == [0, 0, 0, 0, 1, 2]
    assert QualityLabel.objects.filter(judgement__isnull=False).count() == 10


def test_two_answers_in_a_row_wait_for_nobody(page: Any, cards: Project) -> None:
    """A line so slow that nothing comes back; then the answers come, the first one last."""
    waiting: list[Any] = []
    # before the page is there: a renderer that is told later may still send its first request past the route
    page.route("**/annotate/*-*/", lambda route: waiting.append(route))
    page.goto(ANNOTATE)
    seen = [key_in_sight(page)]
    for count, keys in enumerate(("a31", "b13"), start=1):
        for key in keys:
            page.keyboard.press(key)
        wait_for_other_card(page, seen[-1])
        page.wait_for_function(
            "count => document.querySelectorAll('.judge[data-sending]').length === count", arg=count
        )
        seen.append(key_in_sight(page))
    assert page.locator("#waiting").is_hidden()
    assert Judgement.objects.count() == 0
    for key in "t22":
        page.keyboard.press(key)
    page.locator("#waiting").wait_for()
    replies = [(route, route.fetch()) for route in waiting]
    assert Judgement.objects.count() == 3
    for route, reply in reversed(replies):
        route.fulfill(response=reply)
    page.wait_for_function("() => document.querySelectorAll('.judge:not([data-sending])').length === 3")
    page.wait_for_function("() => !document.querySelector('.judge[data-sending]')")
    assert len({*seen, *page.locator(".judge").evaluate_all("all => all.map(one => one.dataset.key)")}) == 6
    # what was written first and came last does not tell how far one is
    wait_until_sent(page, 3)
    page.keyboard.press("u")
    page.locator(f".judge[data-key='{seen[2]}']:not([hidden])").wait_for()


def test_receipts_that_arrive_in_the_other_order(page: Any, cards: Project, annotator: User) -> None:
    for card in assignments_for(project=cards, annotator=annotator, count=6)[:4]:
        judgement_submit(key=card.key, annotator=annotator, verdict="skip")
    replies: list[Any] = []
    page.route("**/annotate/*-*/", lambda route: replies.append((route, route.fetch())))
    page.goto(ANNOTATE)
    for count, keys in enumerate(("a31", "b13"), start=1):
        for key in keys:
            page.keyboard.press(key)
        page.wait_for_function(
            "count => document.querySelectorAll('.judge[data-sending]').length === count", arg=count
        )
        while len(replies) < count:
            page.wait_for_timeout(50)
    for route, reply in reversed(replies):
        route.fulfill(response=reply)
        page.wait_for_timeout(50)
    page.get_by_role("heading", name="All done for now").wait_for()
    assert Judgement.objects.verdicts().count() == 2


def test_a_card_with_a_receipt_does_not_come_again(page: Any, cards: Project) -> None:
    """The answer to an earlier card may have been written before the later card was stored, and bring that again."""
    page.goto(ANNOTATE)
    first = key_in_sight(page)
    again = page.locator(".judge:not([hidden])").evaluate("card => card.outerHTML")
    for key in "a31":
        page.keyboard.press(key)
    wait_saved(page)
    page.evaluate(
        """again => {
            document.getElementById("deck").insertAdjacentHTML("afterbegin", again);
            document.dispatchEvent(new CustomEvent("htmx:afterSettle"));
        }""",
        again,
    )
    assert key_in_sight(page) != first
    page.keyboard.press("u")
    page.locator(f".judge[data-key='{first}']:not([hidden])").wait_for()


def test_a_fast_hand_is_never_sent_as_a_plain_form(page: Any, cards: Project) -> None:
    """A card that was swapped in answers to htmx at once: the page is not loaded anew."""
    page.goto(ANNOTATE)
    page.evaluate("window.samePage = true")
    for count in range(1, 7):
        page.locator(".judge:not([hidden])").wait_for()
        for key in "a31":
            page.keyboard.press(key)
        wait_until_sent(page, count)
    assert page.evaluate("window.samePage")
    assert Judgement.objects.verdicts().count() == 6


def test_a_double_click_stores_one(page: Any, cards: Project) -> None:
    page.goto(ANNOTATE)
    card = page.locator(".judge:not([hidden])")
    card.locator("label.verdict-tie").click()
    card.locator("[data-levels=left] label.level-good").click()
    card.locator("[data-levels=right] label.level-good").click()
    assert Judgement.objects.count() == 0  # with a pointer nothing is sent before Save
    box = card.locator("button.save").bounding_box()
    page.mouse.dblclick(box["x"] + 10, box["y"] + 10)
    wait_until_sent(page, 1)
    assert Judgement.objects.count() == 1
    assert Judgement.objects.get().verdict == "tie"


def test_undo_brings_the_card_back_with_its_answer_and_goes_further(page: Any, cards: Project) -> None:
    page.goto(ANNOTATE)
    first = key_in_sight(page)
    for key in "aa31":
        page.keyboard.press(key)
    wait_until_sent(page, 1)
    second = key_in_sight(page)
    for key in "b12":
        page.keyboard.press(key)
    wait_until_sent(page, 2)
    page.keyboard.press("u")
    wait_until_sent(page, 1)
    assert key_in_sight(page) == second
    page.keyboard.press("u")
    wait_until_sent(page, 0)
    assert key_in_sight(page) == first
    card = page.locator(".judge:not([hidden])")
    assert card.locator("input[name=verdict]:checked").get_attribute("value") == "left"
    assert card.locator("input[name=strength]:checked").get_attribute("value") == "1"
    assert card.locator("input[name=level_left]:checked").get_attribute("value") == "good"
    for key in "t3":  # what came back counts once all of it is said again
        page.keyboard.press(key)
    assert key_in_sight(page) == first
    page.keyboard.press("3")
    wait_until_sent(page, 1)
    assert key_in_sight(page) == second
    rows = list(Judgement.objects.filter(assignment__key=first).order_by("pk"))
    assert [(row.verdict == row.left, row.retraction, row.is_current) for row in rows] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]
    assert rows[-1].verdict == "tie"


def test_a_lost_connection_keeps_the_answer(page: Any, cards: Project) -> None:
    page.expected_errors += ["Failed to load resource", "net::ERR", "htmx:"]
    page.route("**/annotate/*-*/", lambda route: route.abort())
    page.goto(ANNOTATE)
    first = key_in_sight(page)
    for key in "aa31":
        page.keyboard.press(key)
    error = page.locator(f"#card-{first} .card-error")
    error.wait_for()
    assert "could not be reached" in error.inner_text()
    assert key_in_sight(page) == first
    page.unroute("**/annotate/*-*/")
    # Even a reload loses nothing: the answer is kept in the browser, the card in the queue.
    page.reload()
    assert key_in_sight(page) == first
    card = page.locator(".judge:not([hidden])")
    assert card.locator("input[name=strength]:checked").get_attribute("value") == "1"
    page.keyboard.press("Enter")
    wait_until_sent(page, 1)
    assert Judgement.objects.get().strength == 1
    assert page.evaluate("() => Object.keys(localStorage).filter(key => key.includes('draft')).length") == 0


def test_an_answer_sent_after_signing_out_is_not_taken_for_saved(page: Any, cards: Project) -> None:
    page.goto(ANNOTATE)
    first = key_in_sight(page)
    page.expected_errors += ["Failed to load resource", "Response Status Error Code"]
    page.context.clear_cookies(name="sessionid")
    for key in "a31":
        page.keyboard.press(key)
    page.locator(f"#card-{first} .card-error").wait_for()
    assert "Not saved yet" in page.locator(f"#card-{first} .card-error").inner_text()
    assert key_in_sight(page) == first
    assert Judgement.objects.count() == 0


def test_a_comment_is_typed_in_peace(page: Any, cards: Project) -> None:
    page.goto(ANNOTATE)
    first = key_in_sight(page)
    page.keyboard.press("a")
    page.keyboard.press("c")
    page.keyboard.type("about x, s and 31?")
    page.keyboard.press("Escape")
    page.keyboard.press("3")
    assert key_in_sight(page) == first
    page.keyboard.press("1")  # the third key saves, with a comment too
    wait_until_sent(page, 1)
    assert Judgement.objects.get().comment == "about x, s and 31?"
    second = key_in_sight(page)
    page.keyboard.press("t")
    page.keyboard.press("2")
    page.locator(".judge:not([hidden]) [data-levels=right] label.level-normal").click()
    assert key_in_sight(page) == second
    page.keyboard.press("c")
    page.keyboard.type("from the field")
    page.keyboard.press("Control+Enter")
    wait_until_sent(page, 2)
    assert Judgement.objects.latest("pk").comment == "from the field"


def test_what_is_missing_is_said(page: Any, cards: Project) -> None:
    page.goto(ANNOTATE)
    page.keyboard.press("Enter")
    error = page.locator(".judge:not([hidden]) .card-error")
    assert "Choose A, B, tie or both bad" in error.inner_text()
    page.keyboard.press("t")
    assert error.is_hidden()
    page.keyboard.press("Enter")
    assert "the level of A" in error.inner_text()
    page.keyboard.press("?")
    page.get_by_role("heading", name="Keys").wait_for()
    page.keyboard.press("Escape")


def test_pairs_only_and_levels_only(page: Any, cards: Project) -> None:
    Project.objects.update(asks="pairs")
    page.goto(ANNOTATE)
    page.keyboard.press("b")
    page.keyboard.press("3")
    page.keyboard.press("Enter")
    wait_until_sent(page, 1)
    judgement = Judgement.objects.get()
    assert judgement.strength == 3
    assert judgement.verdict != judgement.left
    Project.objects.update(asks="levels")
    cards.refresh_from_db()
    project_save(project=cards)
    page.goto(ANNOTATE)
    for number, key in enumerate("312", start=1):
        page.keyboard.press(key)
        wait_until_sent(page, number)
    assert sorted(QualityLabel.objects.values_list("level", flat=True)) == ["bad", "good", "normal"]
    page.keyboard.press("u")
    wait_until_sent(page, 2)


def test_correct_an_answer_from_the_history(page: Any, cards: Project) -> None:
    page.goto(ANNOTATE)
    for key in "a31":
        page.keyboard.press(key)
    wait_until_sent(page, 1)
    page.goto("/p/capitals/history/")
    page.get_by_role("link", name="Correct this answer").click()
    page.get_by_role("button", name="Keys").wait_for()  # shown by the script: keys work now
    for key in "b13":
        page.keyboard.press(key)
    assert Judgement.objects.count() == 1  # a correction waits for Enter
    page.keyboard.press("Enter")
    page.locator(".own-answer", has_text="B is better").wait_for()
    assert page.url.endswith("/history/")
    old, new = Judgement.objects.order_by("pk")
    assert (old.is_current, new.is_current, new.supersedes_id) == (False, True, old.pk)
    assert (old.verdict == old.left, new.verdict == new.left) == (True, False)


@pytest.mark.parametrize("asks", ["both", "pairs"])
def test_a_phone_does_not_scroll_sideways(
    page_of: Callable[..., Any],
    project: Project,
    annotator: User,
    make_prompt: Callable[..., Prompt],
    asks: str,
) -> None:
    Project.objects.update(asks=asks, guidelines="Be **fair**. " + "https://example.org/" + "x" * 200)
    long = (
        "A word " * 150
        + "W" * 300
        + "\n\n```\n"
        + "code " * 80
        + "\n```\n\n| a | b |\n|---|---|\n| "
        + "c" * 90
        + " | d |"
    )
    make_prompt(project, "long", [long, "short", ""])
    page = page_of(annotator, width=360, height=740, has_touch=True, is_mobile=True)
    for address in (ANNOTATE, "/p/capitals/history/"):
        page.goto(address)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
        if address == ANNOTATE:
            # The answers are in reach wherever one reads.
            assert page.locator(".judge:not([hidden]) button.save").is_visible()
            box = page.locator(".judge:not([hidden]) .verdict-bar").bounding_box()
            assert box["y"] + box["height"] <= 741
            assert box["height"] <= 740 / 4
            page.locator(".judge:not([hidden]) label.verdict-left").tap()
            for side in ("left", "right") if asks == "both" else ():
                page.locator(f".judge:not([hidden]) [data-levels={side}] label.level-normal").tap()
            assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
            page.locator(".judge:not([hidden]) button.save").tap()
            wait_until_sent(page, 1)


def test_without_javascript(page_of: Callable[..., Any], cards: Project, annotator: User) -> None:
    page = page_of(annotator, java_script_enabled=False)
    page.expected_errors.append("422")
    page.goto(ANNOTATE)
    first = key_in_sight(page)
    page.get_by_role("button", name="Save").first.click()
    assert "Choose A, B" in page.locator(".card-error").inner_text()
    card = page.locator(".judge").first
    card.locator("label.verdict-left").click()
    card.locator("[data-levels=left] label.level-good").click()
    card.locator("[data-levels=right] label.level-bad").click()
    card.locator("button.save").click()
    assert "Saved" in page.locator(".message").inner_text()
    assert key_in_sight(page) != first
    assert Judgement.objects.count() == 1
    page.locator("#undo button").click()
    assert Assignment.objects.get(key=first).state == "open"


def test_texts_as_they_were_written_with_their_difference(
    page: Any, project: Project, make_prompt: Callable[..., Prompt]
) -> None:
    make_prompt(project, "sum", ["It is **12** eggs.", "It is **13** eggs."])
    page.goto(ANNOTATE)
    card = page.locator(".judge:not([hidden])")
    assert card.locator("strong").first.is_visible()
    assert not card.locator("pre.as-written").first.is_visible()
    page.keyboard.press("r")
    assert not card.locator("strong").first.is_visible()
    assert sorted(card.locator("mark").all_inner_texts()) == ["12", "13"]
    assert sorted(card.locator(".answer pre.as-written").all_inner_texts()) == [
        "It is **12** eggs.",
        "It is **13** eggs.",
    ]
    page.get_by_role("button", name="As written").click()
    assert card.locator("strong").first.is_visible()


def test_texts_that_would_be_drawn_alike_are_shown_as_written(
    page: Any, project: Project, make_prompt: Callable[..., Prompt]
) -> None:
    make_prompt(project, "list", ["- one\n- two", "* one\n* two"])
    page.goto(ANNOTATE)
    card = page.locator(".judge:not([hidden])")
    assert card.get_by_text("A and B would look alike").count() == 2
    assert sorted(card.locator(".answer pre.as-written:visible").all_inner_texts()) == [
        "* one\n* two",
        "- one\n- two",
    ]
