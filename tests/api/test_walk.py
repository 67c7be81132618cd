"""Every route of the document as each role, by the table of walk.py."""

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction

from tests.api import makers
from tests.api.conftest import ALL, AUTHOR, COMMENT, SCORE, Api
from tests.api.walk import ROWS, Row
from webapp.accounts.models import User
from webapp.api.api import api as caliper_api
from webapp.corpus.models import Membership, Pair, Project, Prompt, Response
from webapp.events.models import Delivery, Webhook
from webapp.events.services import webhook_add, webhook_ping


def webhook_of(project: Project, admin: User) -> Webhook:
    return webhook_add(project=project, url="https://example.com/", kinds=["run.finished"], actor=admin)


def delivery_of(project: Project, admin: User) -> tuple[int, int]:
    """A delivery that failed."""
    made = webhook_ping(webhook=webhook_of(project, admin))
    Delivery.objects.filter(pk=made.pk).update(state="failed")
    return made.webhook_id, made.pk


# What makes the row at which a path ends; each gets the project and its admin, and gives the path parameter behind the
# slug (a tuple where there are several).
MAKERS: dict[str, Callable[[Project, User], Any]] = {
    **makers.MAKERS,
    "prompt": lambda project, admin: Prompt.objects.get(project=project).pk,
    "response": lambda project, admin: Response.objects.filter(project=project).first().pk,
    "pair": lambda project, admin: Pair.objects.get(project=project).pk,
    "webhook": lambda project, admin: webhook_of(project, admin).pk,
    "delivery": lambda project, admin: delivery_of(project, admin),
}


@pytest.fixture
def callers(
    api: Callable[..., Api], annotator: User, researcher: User, admin: User, stranger: User
) -> dict[str, Api]:
    people = {"annotator": annotator, "researcher": researcher, "admin": admin, "stranger": stranger}
    return {role: api(user) for role, user in people.items()}


def documented() -> set[str]:
    paths = caliper_api.get_openapi_schema()["paths"]
    return {
        f"{method.upper()} {path.removeprefix('/api/v1')}"
        for path, methods in paths.items()
        for method in methods
    }


def test_the_table_has_every_route() -> None:
    assert sorted(row.route for row in ROWS) == sorted(documented())


def filled(path: str, keys: Any) -> str:
    """The path with its parameters: a tuple of them where there are several."""
    found = iter(keys if isinstance(keys, tuple) else (keys,))
    return re.sub(r"{\w+}", lambda match: str(next(found)), path)


def call(caller: Api, row: Row, project: Project, admin: User) -> tuple[int, bytes]:
    """Status and body of a call. What it wrote is taken back, so that each call finds the same."""
    with transaction.atomic():
        method, path = row.route.split(" ")
        path = path.replace("{slug}", project.slug)
        if row.at:
            path = filled(path, MAKERS[row.at](project, admin))
        answer = caller.send(method, path, row.body)
        # A streamed answer is read while its rows are there.
        body = b"".join(answer.streaming_content) if answer.streaming else answer.content
        transaction.set_rollback(True)
    return answer.status_code, body


def test_each_role_gets_what_the_table_says(
    world: Project, admin: User, callers: dict[str, Api], api: Callable[..., Api]
) -> None:
    """And an annotator reads nothing that would sway them, in whatever answer."""
    without = {
        scopes: api(admin, *(each for each in ALL if each not in scopes.split()))
        for scopes in {row.scope for row in ROWS if row.scope}
    }
    wrong: list[str] = []
    for row in ROWS:
        asked = [(role, caller, getattr(row, role)) for role, caller in callers.items()]
        asked.append(("anonymous", api(), 401))
        if row.scope:
            asked.append((f"admin without the scope {row.scope}", without[row.scope], 403))
        for role, caller, expected in asked:
            status, body = call(caller, row, world, admin)
            if status != expected:
                wrong.append(f"{row.route} as {role}: {status}, not {expected}: {body[:200]!r}")
            told = body.decode()
            if role in ("annotator", "stranger") and any(
                word in told for word in (AUTHOR, COMMENT, str(SCORE))
            ):
                wrong.append(f"{row.route} tells {role} too much: {told[:200]}")
    assert wrong == []


def test_rows_of_another_project_are_not_found(world: Project, admin: User, callers: dict[str, Api]) -> None:
    """Whatever an admin of one project asks of another one's rows by number: 404."""
    other = Project.objects.create(slug="other", name="Other")
    Membership.objects.create(project=other, user=admin, role="admin")
    found = []
    for row in ROWS:
        # A format is no row of a project.
        if row.at and row.at != "format":
            with transaction.atomic():
                key = MAKERS[row.at](world, admin)
                method, path = row.route.split(" ")
                path = filled(path.replace("{slug}", other.slug), key)
                answer = callers["admin"].send(method, path, row.body)
                transaction.set_rollback(True)
            if answer.status_code != 404:
                found.append(f"{row.route}: {answer.status_code}")
    assert found == []


HOSTILE = ["%00", "9" * 400, "%ED%A0%80", str(10**18 - 1), "..%2Fetc"]


def test_hostile_addresses(world: Project, callers: dict[str, Api], settings: Any) -> None:
    """Each path parameter in turn is what no row has: refused, and never an error of ours."""
    settings.API_PER_MINUTE = 1_000_000
    logging.getLogger("django.request").setLevel(logging.CRITICAL)
    found = []
    for row in ROWS:
        method, path = row.route.split(" ")
        for name in re.findall(r"{\w+}", path):
            # All routes find their project in one way.
            for hostile in HOSTILE if name != "{slug}" else ["%00"]:
                address = path.replace(name, hostile).replace("{slug}", world.slug)
                answer = callers["admin"].send(method, re.sub(r"{\w+}", "1", address), row.body)
                if not 400 <= answer.status_code < 500:
                    found.append(f"{method} {address[:80]}: {answer.status_code}")
    assert found == []
