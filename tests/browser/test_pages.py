"""What pages.js does: forms that outlive a sign-in, the tab bar, tables by keys, copying, a name's address."""

from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings

from webapp.accounts.models import User
from webapp.corpus.models import Project, Prompt
from webapp.corpus.services import invitation_create, project_archive
from webapp.labels.models import Judgement
from webapp.training.models import ModelVersion, TrainingRun

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
ANNOTATE = "/p/capitals/annotate/"


@pytest.fixture
def cards(project: Project, make_prompt: Callable[..., Prompt]) -> Project:
    make_prompt(project, "p1", ["one", "two", "three"])
    return project


def sign_in_again(page: Any, name: str) -> None:
    """As a person does it, in another tab: the browser then has a new session and a new token."""
    other = page.context.new_page()
    other.goto("/sign-in/")
    other.get_by_label("Name").fill(name)
    other.get_by_label("Password").fill("correct horse battery")
    other.get_by_role("button", name="Sign in").click()
    other.wait_for_url("**/")
    other.close()


def test_save_in_the_old_tab_works_after_signing_in_again(page: Any, cards: Project) -> None:
    page.goto(ANNOTATE)
    page.expected_errors += ["Failed to load resource", "Response Status Error Code"]
    page.context.clear_cookies(name=settings.SESSION_COOKIE_NAME)
    page.keyboard.type("a31")
    error = page.locator(".judge:not([hidden]) .card-error")
    error.wait_for()
    assert "Sign in again in another tab; then Save here works." in error.inner_text()
    assert "Reload" not in error.inner_text()
    sign_in_again(page, "anna")
    page.keyboard.press("Enter")
    page.locator("#receipt-text .saved").wait_for()
    assert Judgement.objects.get().verdict in ("a", "b")


def test_a_plain_form_outlives_a_sign_in_too(
    page_of: Callable[..., Any], project: Project, admin: User
) -> None:
    page = page_of(admin)
    page.goto("/p/capitals/settings/")
    page.get_by_label("Description").fill("About cities")
    page.context.clear_cookies()
    sign_in_again(page, "adam")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Saved.").wait_for()
    project.refresh_from_db()
    assert project.description == "About cities"


def test_an_answer_in_an_archived_project_stays_on_the_card(page: Any, cards: Project) -> None:
    page.goto(ANNOTATE)
    page.expected_errors += ["Failed to load resource", "Response Status Error Code"]
    project_archive(project=cards)
    page.keyboard.type("a31")
    error = page.locator(".judge:not([hidden]) .card-error")
    error.wait_for()
    assert "“Capitals” is archived" in error.inner_text()
    assert "Your answer is still here." in error.inner_text()


def test_the_tab_bar_of_a_phone_shows_where_one_is(
    page_of: Callable[..., Any], project: Project, admin: User
) -> None:
    page = page_of(admin, width=360, height=740, has_touch=True, is_mobile=True)
    for path in ("", "runs/", "settings/", "guidelines/"):
        page.goto(f"/p/capitals/{path}")
        box = page.locator(".project-nav [aria-current]").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
        assert box["height"] >= 44
        assert page.locator(".project-name").is_visible()


def test_a_wide_table_scrolls_by_keys(page_of: Callable[..., Any], project: Project, admin: User) -> None:
    invitation_create(project=project, role="annotator", note="", created_by=admin)
    page = page_of(admin, width=360, height=740)
    page.goto("/p/capitals/people/")
    table = page.locator(".table-scroll")
    table.wait_for()
    assert table.get_attribute("tabindex") == "0"
    assert table.get_attribute("role") == "region"
    assert table.get_attribute("aria-label") == "People, scrolls sideways"
    table.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.querySelector('.table-scroll').scrollLeft > 0")
    page.set_viewport_size({"width": 1440, "height": 900})
    page.wait_for_function("() => !document.querySelector('.table-scroll').hasAttribute('tabindex')")


def test_the_focus_ring_of_a_tab_is_whole(page_of: Callable[..., Any], project: Project, admin: User) -> None:
    page = page_of(admin)
    page.goto("/p/capitals/")
    for _ in range(8):
        page.keyboard.press("Tab")
    ring = page.evaluate(
        "() => { const style = getComputedStyle(document.activeElement);"
        " const inBar = document.activeElement.closest('.project-nav') !== null;"
        " return [inBar, style.outlineStyle, parseFloat(style.outlineOffset)]; }"
    )
    assert ring[:2] == [True, "solid"]
    assert ring[2] < 0, "outside it the scrolling bar would cut it"


def test_invitations_are_copied(
    page_of: Callable[..., Any], project: Project, admin: User, live_server: Any
) -> None:
    links = {
        note: invitation_create(project=project, role="annotator", note=note, created_by=admin).token
        for note in ("Ann", "Bo")
    }
    page = page_of(admin, permissions=["clipboard-read", "clipboard-write"])
    page.goto("/p/capitals/people/")
    page.get_by_role("button", name="Copy the link for Ann").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("() => navigator.clipboard.readText()") == f"{live_server.url}/join/{links['Ann']}/"
    page.get_by_role("button", name="Copy all 2 links").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()).includes('\\n')")
    copied = page.evaluate("() => navigator.clipboard.readText()").splitlines()
    assert copied == [f"{note}: {live_server.url}/join/{links[note]}/" for note in ("Bo", "Ann")]
    page.get_by_role("button", name="Copy the link for Bo").wait_for()


def test_the_address_follows_the_name(page_of: Callable[..., Any], make_user: Callable[..., User]) -> None:
    page = page_of(make_user("sid", is_staff=True))
    page.goto("/new/")
    name, address = page.get_by_label("Name"), page.get_by_label("Address")
    name.press_sequentially("Städte & Flüsse, 2!")
    assert address.input_value() == "stadte-flusse-2"
    address.fill("rivers")
    name.fill("Something else")
    assert address.input_value() == "rivers", "what somebody wrote stays"
    page.get_by_role("button", name="Make project").click()
    page.wait_for_url("**/p/rivers/imports/")


def test_promoting_asks_once(page_of: Callable[..., Any], project: Project, admin: User) -> None:
    run = TrainingRun.objects.create(project=project, method="bt", trigger="button", config={}, state="done")
    (run.folder / "model").mkdir(parents=True)
    (run.folder / "model" / "reward_config.json").write_text("{}")
    version = ModelVersion.objects.create(
        project=project, run=run, method="bt", number=1, kind="scalar", gate_passed=True
    )
    page = page_of(admin, width=360, height=740)
    page.goto(f"/p/capitals/runs/{run.pk}/")
    question = page.get_by_role("button", name="Yes, let it serve (v1)")
    assert not question.is_visible()
    page.locator("details.ask > summary").focus()
    page.keyboard.press("Enter")
    question.click()
    page.get_by_text("let serve by adam").wait_for()
    version.refresh_from_db()
    assert version.is_serving
