"""No address, query string or form brings the server to its knees: the whole URL map is tried as each role."""

import ast
import itertools
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django import forms
from django.conf import settings
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from webapp.accounts.models import User
from webapp.corpus.models import Import, Project, Prompt
from webapp.corpus.services import invitation_create

HOSTILE = [
    "%00",
    "9" * 5000,
    "²",
    "%ED%A0%80",
    str(2**63),
    str(10**18 - 1),
    "-1",
    "a" * 3000,
    "..%2F..%2Fetc",
    "%F0%9F%92%A9",
]
HOSTILE_VALUES = ["%00", "9" * 5000, "²", "%ED%A0%80", str(2**63)]
WEBAPP = Path(settings.BASE_DIR) / "webapp"


class Page(NamedTuple):
    route: str
    parts: list[tuple[str, str]]
    """Literal text and, behind it, the name of a parameter (empty at the end)."""
    module: str
    """Where the view is."""


def pages(resolver: URLResolver | None = None, prefix: str = "") -> Iterator[Page]:
    """Every address of the installation, whoever added it. The API's take tokens: tests/api has their own fuzzing."""
    for entry in (resolver or get_resolver()).url_patterns:
        if isinstance(entry, URLResolver):
            yield from pages(entry, prefix + str(entry.pattern))
        elif isinstance(entry, URLPattern) and not prefix.startswith("api/v1/"):
            route = prefix + str(entry.pattern)
            parts, rest = [], route
            while "<" in rest:
                text, _, rest = rest.partition("<")
                name, _, rest = rest.partition(">")
                parts.append((text, name.rpartition(":")[2]))
            yield Page(route, [*parts, (rest, "")], str(entry.callback.__module__))


def asked_names(path: Path) -> set[str]:
    """Every name that a module asks a query string or form for."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            at = 1 if called == "int_parameter" else 0 if called.endswith((".get", ".getlist")) else None
            found = node.args[at : at + 1] if at is not None else []
            names |= {
                each.value
                for each in found
                if isinstance(each, ast.Constant) and str(each.value) == each.value
            }
    return names


def field_names(package: str) -> set[str]:
    """Every field of the package's forms."""
    names: set[str] = set()
    found = list(forms.BaseForm.__subclasses__())
    while found:
        form = found.pop()
        found += form.__subclasses__()
        if form.__module__.startswith(package):
            names |= set(getattr(form, "base_fields", {}))
    if package in "webapp.corpus":
        names |= {
            f"{prefix}-{name}" for prefix in ("role", "invitation") for name in ("role", "username", "note")
        }
        names |= {"give-role", "invite"}
    return names


def parameter_names() -> set[str]:
    # Other modules' `.get` may be of anything.
    readers = [
        path
        for path in WEBAPP.rglob("*.py")
        if path.stem.startswith(("views", "cards", "lists", "health", "waiting"))
    ]
    return set().union({"editing"}, field_names("webapp"), *map(asked_names, readers))


def send(client: Client, method: str, address: str, parameters: str) -> int:
    """Percent-encoded as it is: a client of Django's would refuse to send some of it."""
    if method == "GET":
        return client.get(f"{address}?{parameters}").status_code
    return client.post(address, parameters, content_type="application/x-www-form-urlencoded").status_code


def filled(page: Page, values: dict[str, str]) -> str:
    return "/" + "".join(text + values.get(name, "1") if name else text for text, name in page.parts)


@pytest.fixture
def values(project: Project, admin: User, make_prompt: Callable[..., Prompt]) -> dict[str, str]:
    """What makes each parameter lead to something."""
    make_prompt(project, "p1", ["Paris", "Lyon"])
    row = Import.objects.create(project=project, folder="imports/1", created_by=admin)
    invitation = invitation_create(project=project, role="annotator", note="", created_by=admin)
    return {"slug": project.slug, "pk": str(row.pk), "token": invitation.token}


@pytest.fixture
def visitors(
    project: Project,
    admin: User,
    annotator: User,
    researcher: User,
    stranger: User,
    make_user: Callable[..., User],
) -> dict[str, Client]:
    people = {
        "stranger": stranger,
        "annotator": annotator,
        "researcher": researcher,
        "admin": admin,
        "staff": make_user("sue", is_staff=True, is_superuser=True),
    }
    clients = {"anonymous": Client(raise_request_exception=False)}
    for name, user in people.items():
        clients[name] = Client(raise_request_exception=False)
        clients[name].force_login(user)
    return clients


@pytest.fixture(autouse=True)
def _no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webapp.celery.app.send_task", lambda *args, **kwargs: None)
    logging.getLogger("django.request").setLevel(logging.CRITICAL)


def note(status: int, method: str, who: str, address: str, wrong: list[Any]) -> None:
    if status >= 500 and not address.startswith("/healthz"):
        wrong.append((status, method, who, address[:120]))


def test_the_map_is_whole() -> None:
    routes = {page.route for page in pages()}
    assert {"join/<token:token>/", "p/<slug:slug>/people/remove/", "healthz"} <= routes
    assert {"page", "user", "token", "format", "q", "verdict", "role-username", "only"} <= set(
        parameter_names()
    )


@pytest.mark.one_database
def test_hostile_path_parameters(values: dict[str, str], visitors: dict[str, Client]) -> None:
    wrong: list[Any] = []
    for page in pages():
        for name in {name for _, name in page.parts if name}:
            for hostile in HOSTILE:
                address = filled(page, {**values, name: hostile})
                # Who may not open the project at all sees one kind of answer; the others see all of them.
                for who in ("anonymous", "admin") if name != "slug" else ("stranger", "staff"):
                    note(visitors[who].get(address).status_code, "GET", who, address, wrong)
                note(visitors["admin"].post(address).status_code, "POST", "admin", address, wrong)
    assert not wrong


def test_hostile_parameters_together(values: dict[str, str], visitors: dict[str, Client]) -> None:
    """All parameters with the same hostile value; as an admin and, in turn, as each other role."""
    wrong: list[Any] = []
    names = sorted(parameter_names())
    others = itertools.cycle(who for who in visitors if who != "admin")
    for hostile in HOSTILE_VALUES:
        together = "&".join(f"{name}={hostile}" for name in names)
        for page in pages():
            address = filled(page, values)
            # Signing out would make the rest anonymous.
            for who in ("admin", next(others)) if "sign-out" not in page.route else ():
                for method in ("GET", "POST"):
                    note(send(visitors[who], method, address, together), method, who, address, wrong)
    assert not wrong


@pytest.mark.one_database
def test_hostile_parameters_alone(values: dict[str, str], visitors: dict[str, Client]) -> None:
    """To an admin each parameter that the page itself may read, alone: the first that is refused hides the others."""
    wrong: list[Any] = []
    for page in pages():
        address = filled(page, values)
        module = sys.modules.get(page.module)
        if not page.module.startswith("webapp.") or module is None or "sign-out" in page.route:
            continue
        asked = asked_names(Path(str(module.__file__)))
        fields = field_names(page.module.rpartition(".")[0])
        for method, names in (("GET", asked), ("POST", asked | fields)):
            for name in sorted(names):
                status = send(visitors["admin"], method, address, f"{name}=%00&role=annotator")
                if status == 405:
                    break
                note(status, method, name, address, wrong)
    assert not wrong
