"""Every route of the document as each role, by the table of walk.py."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction

from tests.api.conftest import ALL, Api
from tests.api.walk import ROWS, Row
from webapp.accounts.models import User
from webapp.api.api import api as caliper_api
from webapp.corpus.models import Membership, Pair, Project, Prompt, Response

# What makes the row at which a path ends; each gets the project and its admin, and gives the last path parameter.
MAKERS: dict[str, Callable[[Project, User], Any]] = {
    "prompt": lambda project, admin: Prompt.objects.get(project=project).pk,
    "response": lambda project, admin: Response.objects.filter(project=project).first().pk,
    "pair": lambda project, admin: Pair.objects.get(project=project).pk,
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


def status(caller: Api, row: Row, project: Project, admin: User) -> int:
    """What a call answers. What it wrote is taken back, so that each call finds the same."""
    with transaction.atomic():
        method, path = row.route.split(" ")
        path = path.replace("{slug}", project.slug)
        if row.at:
            path = re.sub(r"{\w+}(?!.*{)", str(MAKERS[row.at](project, admin)), path)
        answer = caller.send(method, path, row.body)
        # A streamed answer is read while its rows are there.
        b"".join(answer.streaming_content) if answer.streaming else None
        transaction.set_rollback(True)
    return answer.status_code


def test_each_role_gets_what_the_table_says(
    project: Project,
    admin: User,
    callers: dict[str, Api],
    api: Callable[..., Api],
    make_prompt: Callable[..., Prompt],
) -> None:
    make_prompt(project, "p1", ["Paris", "Lyon"])
    without = {scope: api(admin, *(each for each in ALL if each != scope)) for scope in ALL}
    wrong = []
    for row in ROWS:
        expected = {role: getattr(row, role) for role in callers}
        found = {role: status(caller, row, project, admin) for role, caller in callers.items()}
        expected["anonymous"], found["anonymous"] = 401, status(api(), row, project, admin)
        if row.scope:
            expected["no scope"], found["no scope"] = 403, status(without[row.scope], row, project, admin)
        wrong += [
            f"{row.route} as {role}: {found[role]}, not {expected[role]}"
            for role in expected
            if found[role] != expected[role]
        ]
    assert wrong == []


def test_rows_of_another_project_are_not_found(
    project: Project, admin: User, callers: dict[str, Api], make_prompt: Callable[..., Prompt]
) -> None:
    """Whatever an admin of one project asks of another one's rows by number: 404."""
    make_prompt(project, "p1", ["Paris", "Lyon"])
    other = Project.objects.create(slug="other", name="Other")
    Membership.objects.create(project=other, user=admin, role="admin")
    found = []
    for row in ROWS:
        if row.at:
            with transaction.atomic():
                key = MAKERS[row.at](project, admin)
                method, path = row.route.split(" ")
                path = re.sub(r"{\w+}(?!.*{)", str(key), path.replace("{slug}", other.slug))
                answer = callers["admin"].send(method, path, row.body)
                transaction.set_rollback(True)
            if answer.status_code != 404:
                found.append(f"{row.route}: {answer.status_code}")
    assert found == []
