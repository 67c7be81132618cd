"""Judging in a real browser: contradictions, the back button, two tabs, reasons by key, undo, the bar of a phone."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.test_annotate import (
    ANNOTATE,
    key_in_sight,
    wait_for_other_card,
    wait_saved,
    wait_until_sent,
)
from webapp.accounts.models import User
from webapp.corpus.models import Project, Prompt
from webapp.labels.models import Judgement, QualityLabel

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
QUARTER = 740 / 4


@pytest.fixture
def cards(project: Project, make_prompt: Callable[..., Prompt]) -> Project:
    """Six pairs."""
    make_prompt(
        project, "capital", ["The capital is **Paris**.", "Lyon.", "I don't know.", "`Paris`, of course."]
    )
    return project


def press(page: Any, keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def in_sight(page: Any) -> Any:
    return page.locator(".judge:not([hidden])")


def question(page: Any) -> Any:
    return in_sight(page).locator(".card-error.asks")


def levels_left_right(judgement: Judgement) -> tuple[str, str]:
    levels = dict(QualityLabel.objects.filter(judgement=judgement).values_list("response_id", "level"))
    a, b = levels[judgement.pair.response_a_id], levels[judgement.pair.response_b_id]
    return (a, b) if judgement.left == "a" else (b, a)


class TestContradiction:
    def test_only_it_makes_the_third_key_wait(self, page: Any, cards: Project) -> None:
        page.goto(ANNOTATE)
        first = key_in_sight(page)
        press(page, "a13")
        assert question(page).inner_text() == (
            "A is better, but you called A bad and B good. Save (Enter) keeps it."
        )
        assert key_in_sight(page) == first
        page.wait_for_timeout(200)
        assert Judgement.objects.count() == 0
        page.keyboard.press("Enter")
        wait_until_sent(page, 1)
        row = Judgement.objects.get()
        assert (row.contradiction_kept, row.verdict, levels_left_right(row)) == (
            True,
            row.left,
            ("bad", "good"),
        )
        press(page, "a31")
        wait_until_sent(page, 2)
        assert not Judgement.objects.latest("pk").contradiction_kept

    def test_another_verdict_or_two_other_levels_answer_it(self, page: Any, cards: Project) -> None:
        page.goto(ANNOTATE)
        press(page, "a13")
        question(page).wait_for()
        press(page, "b")  # a slip of the letter: put right by one key
        wait_until_sent(page, 1)
        row = Judgement.objects.latest("pk")
        assert (row.contradiction_kept, row.verdict != row.left, levels_left_right(row)) == (
            False,
            True,
            ("bad", "good"),
        )
        first = key_in_sight(page)
        press(page, "x12")
        question(page).wait_for()
        press(page, "1")
        assert key_in_sight(page) == first
        assert question(page).count() == 0
        press(page, "1")
        wait_until_sent(page, 2)
        assert levels_left_right(Judgement.objects.latest("pk")) == ("bad", "bad")

    def test_it_is_asked_again_about_something_else(self, page: Any, cards: Project) -> None:
        page.goto(ANNOTATE)
        press(page, "a13")
        question(page).wait_for()
        press(page, "t")
        assert "A tie, but" in question(page).inner_text()
        page.wait_for_timeout(200)
        assert Judgement.objects.count() == 0
        # With the pointer, too.
        in_sight(page).locator("button.save").click()
        wait_until_sent(page, 1)
        assert Judgement.objects.get().contradiction_kept

    def test_a_skip_is_never_asked_about(self, page: Any, cards: Project) -> None:
        page.goto(ANNOTATE)
        press(page, "a13")
        question(page).wait_for()
        first = key_in_sight(page)
        press(page, "s")
        wait_for_other_card(page, first)
        page.locator("#receipt-text", has_text="Skipped").wait_for()
        press(page, "u")
        page.locator("#receipt-text", has_text="the card that you skipped is here again").wait_for()
        assert key_in_sight(page) == first

    def test_without_javascript(self, page_of: Callable[..., Any], cards: Project, annotator: User) -> None:
        page = page_of(annotator, java_script_enabled=False)
        page.expected_errors.append("409")
        page.goto(ANNOTATE)
        card = page.locator(".judge").first
        card.locator("label.verdict-left").click()
        card.locator("[data-levels=left] label.level-bad").click()
        card.locator("[data-levels=right] label.level-good").click()
        card.locator("button.save").click()
        assert "A is better, but you called A bad and B good." in page.locator(".card-error").inner_text()
        assert Judgement.objects.count() == 0
        page.locator("button.save").click()
        assert "Saved" in page.locator(".message").inner_text()
        assert Judgement.objects.get().contradiction_kept


class TestTwoPlaces:
    def test_back_shows_the_next_card_and_the_answer_can_be_corrected(
        self, page: Any, cards: Project
    ) -> None:
        page.goto(ANNOTATE)
        first = key_in_sight(page)
        press(page, "a31")
        wait_until_sent(page, 1)
        second = key_in_sight(page)
        page.get_by_role("link", name="My judgements").click()
        page.get_by_role("link", name="Correct this answer").wait_for()
        page.go_back()
        assert key_in_sight(page) == second
        assert page.locator(f"#card-{first}").count() == 0
        page.locator("#progress", has_text="You: 1 judged").wait_for()
        # Back to a correction that was saved: the answer as it is now.
        page.go_forward()
        page.get_by_role("link", name="Correct this answer").click()
        page.get_by_role("button", name="Keys").wait_for()
        assert "A is better; A good, B bad" in page.locator(".progress").inner_text()
        press(page, "b13")
        page.keyboard.press("Enter")
        page.locator(".own-answer", has_text="B is better").wait_for()
        page.go_back()
        page.get_by_role("button", name="Keys").wait_for()
        assert "Correcting an earlier answer" in page.locator(".progress").inner_text()
        assert "B is better; A bad, B good" in page.locator(".progress").inner_text()
        assert in_sight(page).locator("input[name=verdict]:checked").get_attribute("value") == "right"
        assert Judgement.objects.count() == 2

    def test_a_page_that_the_browser_kept_whole_is_loaded_anew(self, page: Any, cards: Project) -> None:
        page.goto(ANNOTATE)
        page.evaluate("window.kept = true")
        with page.expect_navigation():
            page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
        assert page.evaluate("window.kept === undefined")

    def test_a_second_tab_shows_what_was_answered(self, page: Any, cards: Project) -> None:
        page.goto(ANNOTATE)
        other = page.context.new_page()
        other.goto(ANNOTATE)
        first = key_in_sight(page)
        assert key_in_sight(other) == first
        press(page, "a31")
        wait_saved(page)
        note = question(other)
        note.wait_for()
        assert "You have answered this card already, at" in note.inner_text()
        assert "A is better; A good, B bad" in note.inner_text()
        assert in_sight(other).locator("input[name=verdict]:checked").get_attribute("value") == "left"
        # Its keys do not replace the answer by themselves.
        press(other, "t22")
        other.wait_for_timeout(200)
        assert Judgement.objects.count() == 1
        other.keyboard.press("Enter")
        wait_for_other_card(other, first)
        wait_until_sent(other, 1)
        assert [row.verdict for row in Judgement.objects.current()] == ["tie"]

    def test_what_was_begun_in_a_second_tab_is_asked_about(self, page: Any, cards: Project) -> None:
        page.goto(ANNOTATE)
        other = page.context.new_page()
        other.goto(ANNOTATE)
        errors: list[str] = []
        other.on("pageerror", lambda error: errors.append(str(error)))
        first = key_in_sight(other)
        press(other, "t2")
        press(page, "a31")
        wait_saved(page)
        press(other, "2")
        question(other).wait_for()
        assert key_in_sight(other) == first
        assert "replaces that" in question(other).inner_text()
        assert in_sight(other).locator("input[name=verdict]:checked").get_attribute("value") == "tie"
        assert [row.verdict == row.left for row in Judgement.objects.all()] == [True]
        question(other).get_by_role("link", name="Leave it so").click()
        other.get_by_role("button", name="Keys").wait_for()
        assert key_in_sight(other) != first
        assert Judgement.objects.count() == 1
        assert (
            other.evaluate("() => Object.keys(localStorage).filter(key => key.includes('draft')).length") == 0
        )
        assert not errors


class TestReasons:
    @pytest.fixture(autouse=True)
    def _tags(self, project: Project) -> None:
        Project.objects.update(
            reason_tags=["false", "too long", *(f"tag {number}" for number in range(3, 11))]
        )

    def test_by_keys(self, page: Any, cards: Project) -> None:
        page.goto(ANNOTATE)
        press(page, "f12f0fa31")
        wait_until_sent(page, 1)
        row = Judgement.objects.get()
        left, right = ("a", "b") if row.left == "a" else ("b", "a")
        assert sorted(row.reasons) == sorted([f"{left}:false", f"{left}:too long", f"{right}:tag 10"])
        assert levels_left_right(row) == ("good", "bad")
        # A tick more takes it away, a verdict leaves the reasons, and they stay on a card that is taken back.
        press(page, "f122b13")
        wait_until_sent(page, 2)
        assert [reason[2:] for reason in Judgement.objects.latest("pk").reasons] == ["false"]
        press(page, "u")
        wait_until_sent(page, 1)
        assert in_sight(page).locator("input[name=tags_left]:checked").get_attribute("value") == "false"
        press(page, "b13")
        wait_until_sent(page, 2)
        assert [reason[2:] for reason in Judgement.objects.latest("pk").reasons] == ["false"]

    def test_the_keys_are_shown_where_they_count(self, page: Any, cards: Project) -> None:
        page.goto(ANNOTATE)
        card = in_sight(page)
        tag, level = card.locator("[data-tags=left] .choice kbd").first, card.locator(".levels kbd").first
        assert (tag.is_visible(), level.is_visible()) == (False, True)
        press(page, "f")
        assert (tag.is_visible(), level.is_visible()) == (True, False)
        page.keyboard.press("Escape")
        assert (tag.is_visible(), level.is_visible()) == (False, True)
        card.locator("[data-tags=right] label", has_text="too long").click()
        press(page, "b13")  # keys work with a box in focus
        wait_until_sent(page, 1)
        assert [reason[2:] for reason in Judgement.objects.get().reasons] == ["too long"]


def test_an_undone_card_is_confirmed_by_the_same_keys(page: Any, cards: Project) -> None:
    page.goto(ANNOTATE)
    first = key_in_sight(page)
    press(page, "cwhy")
    page.keyboard.press("Escape")
    press(page, "bb13")
    wait_until_sent(page, 1)
    press(page, "u")
    wait_until_sent(page, 0)
    assert key_in_sight(page) == first
    press(page, "b")  # the same letter changes nothing
    assert in_sight(page).locator("input[name=strength]:checked").get_attribute("value") == "1"
    press(page, "13")
    wait_until_sent(page, 1)
    row = Judgement.objects.latest("pk")
    assert (row.strength, row.comment, row.verdict != row.left) == (1, "why", True)
    press(page, "u")
    wait_until_sent(page, 0)
    press(page, "bb")  # twice: now it says by how much
    assert in_sight(page).locator("input[name=strength]:checked").get_attribute("value") == "2"
    press(page, "a")  # how much was said of B
    assert in_sight(page).locator("input[name=strength]:checked").get_attribute("value") == ""


def test_screen_and_keys_have_one_order(page: Any, cards: Project) -> None:
    page.goto(ANNOTATE)
    card = in_sight(page)
    boxes = [
        card.locator(place).bounding_box()
        for place in (".verdicts", "[data-levels=left]", "[data-levels=right]")
    ]
    assert boxes[0]["x"] < boxes[1]["x"] < boxes[2]["x"]
    assert {box["y"] for box in boxes} == {boxes[0]["y"]}
    assert card.locator(".verdicts kbd").all_inner_texts() == ["a", "t", "x", "b"]


@pytest.mark.parametrize("width", [700, 1000, 1280, 1600])
def test_the_comment_has_a_row_of_its_own(
    page_of: Callable[..., Any], cards: Project, annotator: User, width: int
) -> None:
    page = page_of(annotator, width=width, height=900)
    page.goto(ANNOTATE)
    card = in_sight(page)
    field, bar = card.locator("textarea"), card.locator(".verdict-bar")
    inner = bar.bounding_box()["width"] - 40

    def is_a_row() -> bool:
        box, end = field.bounding_box(), card.locator(".verdict-end").bounding_box()
        return box["width"] >= inner and box["y"] + box["height"] <= end["y"] + 1

    assert is_a_row()
    press(page, "bb")
    assert is_a_row()
    page.keyboard.press("c")
    page.keyboard.type("word " * 60)
    assert is_a_row()
    page.keyboard.press("Escape")
    press(page, "3")
    assert is_a_row()
    press(page, "1")
    assert question(page).is_visible()
    assert is_a_row()


@pytest.mark.parametrize("asks", ["both", "pairs", "levels"])
def test_the_bar_of_a_phone_takes_a_quarter_at_most(
    page_of: Callable[..., Any], cards: Project, annotator: User, asks: str
) -> None:
    Project.objects.update(asks=asks, reason_tags=[f"{'reason' * 5} {number}" for number in range(10)])
    cards.refresh_from_db()
    if asks == "levels":
        cards.responses.update(wanted=2)
    page = page_of(annotator, width=360, height=740, has_touch=True, is_mobile=True)
    page.goto(ANNOTATE)
    card = in_sight(page)
    bar = card.locator(".verdict-bar")
    states: dict[str, float] = {}

    def look(state: str, low: float = 43.9) -> None:
        box = bar.bounding_box()
        states[state] = box["height"]
        assert box["y"] + box["height"] <= 741
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
        targets = [
            target.bounding_box()
            for target in bar.locator(".choice, button, textarea").all()
            if target.is_visible()
        ]
        assert min(target["height"] for target in targets) >= low, state
        assert card.locator("button.save").is_visible()
        assert all(target["x"] >= 0 for target in targets)

    look("blank")
    card.locator("button.save").tap()
    look("incomplete", low=36)
    if asks != "levels":
        card.locator("label.verdict-left").tap()
        look("verdict")
        card.locator("[data-fold=strength]").tap()
        look("strength")
        card.locator(".strength label", has_text="clearly").tap()
        assert card.locator("[data-fold=strength]").inner_text() == "clearly"
        look("strength chosen")
        card.locator("[data-fold=tags]").tap()
        look("reasons")
        card.locator("[data-tags=left] label").first.tap()
        card.locator("[data-tags=right] label").nth(1).tap()
        card.locator("[data-fold=tags]").tap()
        assert card.locator("[data-fold=tags]").inner_text() == "Reasons 2"
    card.locator("[data-fold=comment]").tap()
    card.locator("textarea").fill("a long comment " * 40)
    look("comment", low=36 if asks == "levels" else 43.9)  # there, what is missing is still said
    card.locator("[data-fold=comment]").tap()
    look("comment folded", low=36)
    if asks == "both":
        card.locator("[data-levels=left] label.level-bad").tap()
        card.locator("[data-levels=right] label.level-good").tap()
        look("whole")
        card.locator("button.save").tap()
        assert question(page).is_visible()
        look("question", low=36)
    elif asks == "levels":
        card.locator("label.level-good").tap()
    # Answered elsewhere meanwhile: the longest question.
    key = key_in_sight(page)
    other = page.context.new_page()
    other.goto(ANNOTATE)
    assert key_in_sight(other) == key
    press(other, {"both": "aaa31", "pairs": "aaa", "levels": "1"}[asks])
    if asks == "pairs":
        other.keyboard.press("Enter")
    wait_saved(other)
    other.close()
    page.bring_to_front()
    page.expected_errors += ["409"]
    card.locator("button.save").tap()
    in_sight(page).locator(".card-error", has_text="replaces that").wait_for()
    look("answered meanwhile", low=36)
    card.locator("button.save").tap()
    wait_for_other_card(page, key)
    assert max(states.values()) <= QUARTER, states
