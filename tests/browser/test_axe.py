"""Every page, laptop and phone, light and dark: axe-core finds nothing serious, and nothing is wider than the screen.

Pages are found in the URL map, so that a new one is walked without being named here.
"""

import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from tests.browser.populated import ENDPOINT, empty_project, judged_card, populate
from webapp.accounts.models import User
from webapp.benchmarks.models import EvaluationSet
from webapp.corpus.models import Import, Invitation, Pair, Project, Response
from webapp.corpus.services import project_archive
from webapp.events.models import Webhook
from webapp.labels.machine_models import MachineAnnotator
from webapp.snapshots.models import Export
from webapp.training.models import ModelVersion, TrainingRun

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

WIDTHS = {1440: 900, 360: 740}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
RUN = """async ([options]) => (await axe.run(document, options)).violations
    .filter((found) => ["serious", "critical"].includes(found.impact))
    .flatMap((found) => found.nodes.map((node) =>
        [found.id, node.target.join(" "), node.any.concat(node.all).map((check) => check.message)[0] || ""]))"""
# So that a page that fails is not taken for one that is not there.
ALWAYS = [
    "",
    "annotate/",
    "history/",
    "responses/",
    "pairs/",
    "try/",
    "runs/",
    "exports/",
    "imports/",
    "imports/formats/",
]
ALWAYS += ["people/", "machines/", "settings/", "audit/", "guidelines/", "copy/"]
DRAWN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
# How much wider than the screen the page is, and what reaches furthest beyond it.
OVERFLOW = """() => {
    const screen = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= screen) return "";
    const wide = [...document.querySelectorAll("main *, header *")];
    const reach = wide.map((element) => [element, element.getBoundingClientRect().right]);
    const [element, right] = reach.reduce((most, each) => each[1] > most[1] ? each : most);
    return `${Math.round(right - screen)} px wider than the screen: ${element.tagName}.${element.className}`;
}"""


def routes(resolver: URLResolver, prefix: str = "") -> Iterator[str]:
    """Every route of the site, as Django writes them."""
    for entry in resolver.url_patterns:
        route = prefix + str(entry.pattern)
        if isinstance(entry, URLPattern):
            yield route
        else:
            yield from routes(entry, route)


def addresses(project: Project, user: User, card: str) -> Iterator[str]:
    """The routes filled in with what the project has; a key is that of the rows its route is about."""
    keys: dict[str, list[Any]] = {
        "imports": list(Import.objects.filter(project=project).values_list("pk", flat=True)),
        # Of the finished ones those that serve: an ordinal and a scalar one.
        "runs": list(
            TrainingRun.objects.filter(project=project)
            .exclude(version__is_serving=False)
            .values_list("pk", flat=True)
        ),
        "versions": list(ModelVersion.objects.filter(project=project).values_list("pk", flat=True))[:1],
        "exports": list(
            Export.objects.filter(project=project, pushes__isnull=False).values_list("pk", flat=True)[:1]
        ),
        "pairs": list(Pair.objects.filter(project=project).values_list("pk", flat=True))[:2],
        "responses": list(Response.objects.filter(project=project).values_list("pk", flat=True))[:3],
        "benchmarks": list(EvaluationSet.objects.filter(project=project).values_list("pk", flat=True)),
        "people": [user.pk],
        "machines": list(MachineAnnotator.objects.filter(project=project).values_list("pk", flat=True)),
        "accounts": [user.pk],
        "webhooks": list(Webhook.objects.filter(project=project).values_list("pk", flat=True)),
        "annotate": [card],
        "join": list(Invitation.objects.filter(project=project).values_list("token", flat=True))[:1],
    }
    for route in routes(get_resolver()):
        address = "/" + route.replace("<slug:slug>", project.slug)
        if "<" not in address:
            yield address
            continue
        keyed = re.findall(r"(\w[\w-]*)/(<\w+:\w+>)", address)
        subject, placeholder = keyed[0] if keyed else ("", "")
        if address.count("<") == 1 and subject in keys:
            for key in keys[subject]:
                yield address.replace(placeholder, str(key))


def pages(client: Client, found: Iterator[str]) -> list[str]:
    """Those addresses that answer with a whole page."""
    whole = []
    for address in found:
        answer = client.get(address)
        html = answer.status_code == 200 and answer.headers.get("Content-Type", "").startswith("text/html")
        if html and b"<html" in answer.content:
            whole.append(address)
    return whole


def first_of_each_kind(found: list[str]) -> set[str]:
    """One address of each route: rows of one kind share their colours."""
    return set({re.sub(r"\d+", "N", address): address for address in reversed(found)}.values())


def seen(page: Any, address: str, *, dark: bool = True) -> list[str]:
    """What axe and the ruler find on one page, a line each; with `dark` also the colours of the dark scheme."""
    page.goto(address)
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
    page.evaluate("() => document.querySelectorAll('main details').forEach((each) => { each.open = true; })")
    found = []
    for width, height in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": height})
        page.evaluate(DRAWN)
        # Only colours differ between the two schemes, and they don't with the width.
        phone = width == min(WIDTHS)
        scheme = "dark" if phone else "light"
        page.emulate_media(color_scheme=scheme)
        only = {"type": "rule", "values": ["color-contrast"]} if phone else {"type": "tag", "values": RULES}
        options = {"runOnly": only, "resultTypes": ["violations"], "iframes": False}
        for rule, selector, message in page.evaluate(RUN, [options]) if dark or not phone else ():
            found.append(f"{address} at {width}, {scheme}: {rule}: {selector}: {message}")
        if over := page.evaluate(OVERFLOW):
            found.append(f"{address} at {width}: {over}")
    return found


@pytest.fixture
def open_page(page_of: Callable[..., Any]) -> Callable[[User | None], Any]:
    def make(user: User | None) -> Any:
        # No transitions: a colour that is on its way is measured as the one it passes.
        page = page_of(user, reduced_motion="reduce")
        page.expected_errors.append("Failed to load resource")
        return page

    return make


@pytest.fixture(autouse=True)
def offered(settings: Any, tmp_path: Path) -> None:
    """An endpoint is offered, so that forms that name one are there."""
    settings.ENDPOINTS_FILE = tmp_path / "endpoints.toml"
    settings.ENDPOINTS_FILE.write_text(ENDPOINT)
    # So are addresses of a hub and of stores.
    settings.HUB_PUSH_TOKEN = "hf_token"
    settings.STORES = settings.STORES_OUT = ["s3://bucket/a-folder-with-a-long-name/of-preferences/"]


@pytest.mark.parametrize("half", [0, 1])
def test_every_page(
    half: int,
    project: Project,
    make_user: Callable[..., User],
    annotator: User,
    open_page: Callable[..., Any],
) -> None:
    boss = make_user("boss", project, "admin", is_staff=True, is_superuser=True)
    populate(project, boss, annotator)
    # The card of the one who asks: they have judged too.
    populated = addresses(project, annotator, judged_card(project, annotator))
    client = Client()
    client.force_login(boss)
    found = pages(client, populated)
    for name in ALWAYS:
        assert f"/p/capitals/{name}" in found
    assert sum("/runs/" in address for address in found) >= 6
    assert sum("/imports/" in address for address in found) >= 4
    page, dark = open_page(boss), first_of_each_kind(found)
    problems = [
        problem for address in found[half::2] for problem in seen(page, address, dark=address in dark)
    ]
    assert not problems, "\n".join(problems)


def test_pages_of_an_empty_and_of_an_archived_project_and_of_annotators_and_strangers(
    project: Project,
    annotator: User,
    admin: User,
    open_page: Callable[..., Any],
    make_prompt: Callable[..., Any],
) -> None:
    empty = empty_project(admin)
    make_prompt(project, "p1", ["one", "two"])
    client = Client()
    client.force_login(admin)
    found = pages(client, addresses(empty, admin, "none"))
    assert len(found) > 10
    page = open_page(admin)
    problems = [problem for address in [*found, "/nowhere/", "/new/"] for problem in seen(page, address)]
    project_archive(project=project)
    for address in ("/", "/p/capitals/settings/", "/p/capitals/annotate/"):
        problems += seen(page, address)
    page = open_page(annotator)
    for address in ("/", "/p/capitals/annotate/", "/p/capitals/history/", "/p/capitals/guidelines/"):
        problems += seen(page, address)
    page = open_page(None)
    for address in ("/sign-in/", "/forgotten/", "/join/none/"):
        problems += seen(page, address)
    assert not problems, "\n".join(problems)
