"""Votes and critiques of a generative version, laptop and phone: hostile text does nothing, long text is folded."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.test_axe import OVERFLOW, seen
from tests.ratings.test_votes import HOSTILE
from tests.ratings.votes import voting_version
from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Prompt

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

CRITIQUE = (
    "It names the **right city** and stops there, as the guidelines ask. The population that it adds is from 1999, "
    "which the question does not need; one clause more would have been enough.\n\n- true: yes\n- brief: yes\n"
)


def picture(page: Any, name: str) -> None:
    """Kept where CALIPER_TEST_PICTURES names a folder: for whoever wants to look."""
    if folder := os.environ.get("CALIPER_TEST_PICTURES"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_strip_votes_and_critique(
    page_of: Callable[..., Any],
    project: Project,
    make_prompt: Callable[..., Prompt],
    researcher: User,
) -> None:
    prompt = make_prompt(
        project, "paris", ["Paris, with 2.1 million people in 1999.", "Lyon.", "I can't say."]
    )
    a, b, c = prompt.responses.order_by("pk")
    votes = {
        a: [7, 8, 7, 6, None, 7, 9, 3],
        b: [3, 2, 3, 5, None, 7, 2, 4],
        c: [2, 1, 3, 4, None, 2, 2, 3],
    }
    version = voting_version(project, votes, texts={a: CRITIQUE, b: HOSTILE})
    one, hostile = (f"/p/capitals/responses/{each.pk}/" for each in (a, b))
    pair = f"/p/capitals/pairs/{Pair.objects.get(response_a=a, response_b=b).pk}/"
    laptop = page_of(researcher, width=1440, height=900, color_scheme="light", reduced_motion="reduce")
    phone = page_of(researcher, width=360, height=740, has_touch=True, is_mobile=True, color_scheme="dark")

    laptop.goto(one)
    strip = laptop.locator(".strip svg")
    assert strip.get_attribute("aria-label").startswith("Predicted ratings: most likely 7")
    assert "7 votes: 3, 6, 7, 7, 7, 8, 9" in strip.get_attribute("aria-label")
    assert [text for text in laptop.locator(".strip .bar-label").all_text_contents() if text] == list("11311")
    machine = laptop.locator(".machine")
    assert "machine, not a person" in machine.inner_text()
    assert machine.get_by_text("right city").first.is_visible()
    picture(laptop, "response-laptop")
    unfolded = machine.locator("details.vote").nth(1)
    assert not unfolded.locator(".machine-text").is_visible()
    unfolded.locator("summary").first.click()
    assert unfolded.get_by_text("Principles that it judged by").is_visible()
    unread = machine.locator("details.vote", has_text="could not be read")
    assert unread.count() == 1
    # The keyboard opens it as well, and the other responses of a text are a click away.
    unread.locator("summary").first.press("Enter")
    assert unread.get_by_text("Text 4.").first.is_visible()
    unread.get_by_role("link", name="paris-r2").click()
    laptop.wait_for_url(f"**{hostile}?method=judge")

    for page, name in ((laptop, "laptop"), (phone, "phone")):
        page.goto(hostile)
        assert "taken" not in page.title()
        assert page.evaluate("document.querySelectorAll('.machine script, .machine img').length") == 0
        assert page.locator(".machine .unfold.long").first.is_visible(), "a long critique is folded"
        box = page.locator(".machine .turn-body.long").first.bounding_box()
        assert box["height"] < 420
        page.evaluate(
            "() => document.querySelectorAll('main details').forEach((each) => { each.open = true; })"
        )
        assert page.evaluate(OVERFLOW) == ""
        picture(page, f"hostile-{name}")
        page.goto(pair)
        assert page.get_by_text("by the order shown").is_visible()
        assert page.evaluate(OVERFLOW) == ""
        picture(page, f"pair-{name}")
    phone.goto(one)
    picture(phone, "response-phone")
    for address in (hostile, pair):
        assert seen(laptop, address) == []
    assert version.is_serving
