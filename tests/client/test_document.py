"""The client against the API's own document: every route, every field of every answer."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from tests.client import made_types
from webapp.api.api import api

CALIPER = made_types.FILE.parent
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

LEFT_OUT: dict[tuple[str, str], str] = {}
"""Operations that the client has no method for, and why."""


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return api.get_openapi_schema()


def routes_of(file: Path) -> set[tuple[str, str]]:
    """(method, route) of each function that names a route; a method is GET where none is named."""
    found = set()
    for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(function, ast.FunctionDef):
            texts = [
                node.value
                for node in ast.walk(function)
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            ]
            method = next((text for text in texts if text in METHODS), "GET")
            found |= {(method, _plain(text)) for text in texts if re.match(r"/(projects(/|$)|me$)", text)}
    return found


def _plain(path: str) -> str:
    return re.sub(r"\{\w+\}", "{}", path)


def test_every_operation_has_a_method_of_the_client(document: dict[str, Any]) -> None:
    offered = {
        (method.upper(), _plain(path.removeprefix("/api/v1")))
        for path, methods in document["paths"].items()
        for method in methods
    }
    reached = set().union(
        *(routes_of(CALIPER / f"{name}.py") for name in ("client", "labels", "data", "models", "events"))
    )
    assert offered - reached - LEFT_OUT.keys() == set(), (
        "write a method, or say in LEFT_OUT why there is none"
    )
    assert reached - offered == set(), "the API has no such route (any more)"


def test_the_types_are_those_of_the_schemas(document: dict[str, Any]) -> None:
    expected = made_types.formatted(made_types.made(document))
    assert made_types.FILE.read_text(encoding="utf-8") == expected, (
        "run `python -m tests.client.made_types`, then see what mypy says of caliper/"
    )
