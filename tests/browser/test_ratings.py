"""The response and pair pages: what is in sight without scrolling, and the keys that walk a list."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.populated import populate
from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Response
from webapp.training.models import ModelVersion

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

FOLD, TWO_SCREENS = 900, 2 * 740


@pytest.fixture
def boss(project: Project, make_user: Callable[..., User], annotator: User) -> User:
    boss = make_user("boss", project, "admin")
    populate(project, boss, annotator)
    # Most room is taken by a sentence more: oprm v2 does not serve, and saw no level.
    version = ModelVersion.objects.get(project=project, method="oprm", number=2)
    version.metrics["training"]["levels"] = 0
    version.save()
    # A long text must not push the picture away.
    Response.objects.filter(project=project).update(text="A sentence that goes on for a while. " * 400)
    return boss


def bottom(page: Any, selector: str) -> float:
    """Where an element ends on the page, in pixels from its top, unscrolled; it must be there and seen."""
    box = page.locator(selector).bounding_box()
    assert box is not None, f"{selector} is not drawn"
    assert box["width"] > 100
    return float(box["y"] + box["height"])


def test_strip_and_labels_are_in_sight(page_of: Callable[..., Any], project: Project, boss: User) -> None:
    response = Response.objects.filter(project=project, quality_labels__isnull=False)[0]
    pair = Pair.objects.filter(project=project, judged__gt=0)[0]
    laptop = page_of(boss, width=1440, height=FOLD)
    phone = page_of(boss, width=360, height=740, has_touch=True, is_mobile=True)
    one, two = f"/p/capitals/responses/{response.pk}/", f"/p/capitals/pairs/{pair.pk}/"
    for address, people in ((one, ".people .level-bars"), (two, ".people .versus .outcomes >> nth=0")):
        for query, picture in (
            ("", ".strip svg"),
            ("?version=oprm-2", ".strip svg"),
            ("?method=bt", ".histogram svg"),
        ):
            for page, limit in ((laptop, FOLD), (phone, TWO_SCREENS)):
                page.goto(address + query)
                for selector in (picture, people):
                    assert bottom(page, selector) <= limit, f"{selector} on {address}{query}"
        laptop.goto(address)
        text = laptop.locator(".judged, .side-by-side").first.bounding_box()
        strip = laptop.locator(".strip svg").bounding_box()
        assert text["x"] + text["width"] < strip["x"], "text left, strip right"


def test_keys_walk_the_list_and_the_choice_of_version_stays(
    page_of: Callable[..., Any], project: Project, boss: User
) -> None:
    page = page_of(boss, width=1440, height=FOLD)
    page.goto("/p/capitals/responses/?sort=added")
    page.locator(".response-text a").first.click()
    first, second = Response.objects.filter(project=project).order_by("-pk")[:2]
    if f"/{first.pk}/" not in page.url:
        first, second = Response.objects.filter(project=project).order_by("pk")[:2]
    page.wait_for_url(f"**/responses/{first.pk}/?sort=added")
    page.locator("#version").select_option("oprm-2")
    page.wait_for_url("**version=oprm-2**")
    page.get_by_text("Ratings here are relative: this model saw no levels.").wait_for()
    page.locator("body").press("j")
    page.wait_for_url(f"**/responses/{second.pk}/?**")
    assert "version=oprm-2" in page.url
    assert "sort=added" in page.url
    page.get_by_text("Ordinal (OPRM) v2 does not serve").wait_for()
    page.locator("body").press("k")
    page.wait_for_url(f"**/responses/{first.pk}/?**")
    page.get_by_role("link", name="Compare methods").click()
    page.wait_for_url(f"**/responses/{first.pk}/methods/?**")
    assert page.locator(".compared .strip").count() == 2  # v2 beside the serving v1
    assert page.locator(".compared .histogram").count() == 1
    assert "version=oprm-2" in page.url
    # “Try it” on the way: boxes come and go, and it is told at once that nobody would answer.
    page.goto("/p/capitals/try/?version=oprm-2")
    assert page.locator("#id_version").input_value() == "oprm-2"
    page.get_by_role("button", name="Add a response").click()
    assert page.locator(".try-form textarea:visible").count() == 4  # the prompt, three responses
    page.get_by_role("button", name="remove Response 3").click()
    assert page.locator(".try-form textarea:visible").count() == 3
    assert page.locator("#result .message.warning").is_visible()
