"""Somebody new with a table from a spreadsheet: mapped, judged and exported in under three minutes, at both widths."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from webapp.accounts.models import User
from webapp.corpus.models import Import, Pair
from webapp.importing.services import import_run
from webapp.labels.models import Judgement
from webapp.snapshots.exporting import export_run
from webapp.snapshots.models import Export

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

TABLE = (
    "question;answer_1;answer_2;better\r\n"
    'Why is the sky blue?;"Because of scattering; short waves most.";It is paint.;answer_1\r\n'
    "What is 2*3*4?;24;It is 9.;answer_1\r\n"
    "Who wrote Faust?;Goethe;Schiller;\r\n"
    "Name a prime.;7;8;\r\n"
)


@pytest.fixture(autouse=True)
def _worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's tasks run where they are sent."""

    def run(task: str, pk: int, **_: Any) -> None:
        if task == "workers.tasks.import_file":
            import_run(Import.objects.get(pk=pk))
        elif task == "workers.tasks.export_file":
            export_run(Export.objects.get(pk=pk))

    def send(name: str, args: Any = (), **_: Any) -> None:
        run(name, *args)

    monkeypatch.setattr("webapp.celery.app.send_task", send)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_from_a_spreadsheet_to_an_export(
    page_of: Callable[..., Any], make_user: Callable[..., User], tmp_path: Path, width: int, scheme: str
) -> None:
    began = time.monotonic()
    shots = tmp_path / "shots"
    page = page_of(make_user("nora", is_staff=True), width=width, height=800, color_scheme=scheme)

    def shot(name: str) -> None:
        page.screenshot(path=shots / f"{width}-{scheme}-{name}.png", full_page=True)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{name} scrolls sideways"

    page.goto("/new/")
    page.get_by_label("Name").fill("Mine")
    page.get_by_label("Address").fill("mine")
    page.get_by_role("button", name="Make project").click()
    page.goto("/p/mine/imports/")
    shot("imports")
    table = {"name": "mine.csv", "mimeType": "text/csv", "buffer": ("\ufeff" + TABLE).encode()}
    page.locator("input[type=file]").set_input_files([table])
    page.get_by_role("button", name="Look into the files", exact=True).click()
    page.get_by_text("Name the columns", exact=True).click()
    page.get_by_role("heading", name="Which column is what?").wait_for()
    shot("mapping")
    assert page.get_by_label("better", exact=True).input_value() == "winner"
    assert page.get_by_label("answer_1", exact=True).first.input_value() == "a"
    page.get_by_role("button", name="Show the preview").click()
    page.get_by_role("button", name="Import it").wait_for()
    shot("preview")
    page.get_by_role("button", name="Import it").click()
    page.get_by_text("Imported in").wait_for()
    shot("imported")
    assert (Pair.objects.count(), Judgement.objects.count()) == (4, 2)

    page.goto("/p/mine/annotate/")
    for number in (1, 2):
        page.locator("article.judge:not([hidden])").wait_for()
        for key in "a31":
            page.keyboard.press(key)
        page.locator("#progress", has_text=re.compile(rf"You: {number} judged")).wait_for()

    page.goto("/p/mine/exports/")
    page.get_by_role("button", name=re.compile("Export|Make")).first.click()
    page.wait_for_function("() => document.querySelector('a[download], a[href*=download]')")
    assert Export.objects.get().state == "done"
    page.goto(f"/p/mine/imports/{Import.objects.get().pk}/undo/")
    page.get_by_text("by nora (").wait_for()
    shot("undo")
    page.goto("/p/mine/pairs/new/")
    shot("pair-new")
    assert time.monotonic() - began < 180
