"""A real Chromium, and pages that are signed in. Skips with a message where no Chromium is installed."""

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from webapp.accounts.models import User

# Playwright keeps an event loop in this thread; Django's guard against blocking one must not stop the tests' queries.
os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "true")

_QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium_path() -> str | None:
    """The Chromium to drive: CALIPER_TEST_CHROMIUM, or one on PATH."""
    if given := os.environ.get("CALIPER_TEST_CHROMIUM"):
        return given
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for path in map(shutil.which, names) if path), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    path = chromium_path()
    if path is None:
        pytest.skip("no Chromium on PATH (install one, or name it with CALIPER_TEST_CHROMIUM)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=_QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def page_of(browser: Any, live_server: Any) -> Iterator[Callable[..., Any]]:
    """page_of(user, width=1280, height=800, **context) opens a page of the live server, signed in as the user.

    Relative addresses work. Errors on the page's console, a violated content security policy among them, fail the
    test; list an expected one with `page.expected_errors.append("part of its text")`.
    """
    contexts, opened = [], []

    def make(user: User | None, *, width: int = 1280, height: int = 800, **options: Any) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": height}, base_url=live_server.url, **options
        )
        contexts.append(context)
        if user is not None:
            client = Client()
            client.force_login(user)
            context.add_cookies(
                [
                    {
                        "name": settings.SESSION_COOKIE_NAME,
                        "value": client.cookies[settings.SESSION_COOKIE_NAME].value,
                        "url": live_server.url,
                    }
                ]
            )
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.console_errors, page.expected_errors = [], []
        page.on(
            "console", lambda entry: page.console_errors.append(entry.text) if entry.type == "error" else None
        )
        page.on("pageerror", lambda error: page.console_errors.append(str(error)))
        opened.append(page)
        return page

    yield make
    errors = [
        error
        for page in opened
        for error in page.console_errors
        if not any(part in error for part in page.expected_errors)
    ]
    for context in contexts:
        context.close()
    assert not errors, f"errors on the browser's console: {errors}"


@pytest.fixture
def page(page_of: Callable[..., Any], annotator: User) -> Any:
    """A laptop's page, signed in as the annotator of the test project."""
    return page_of(annotator)
