"""The OpenAPI document is valid and whole, and the page that shows it has all of it."""

from collections.abc import Callable, Iterator
from typing import Any

from django.test import Client
from jsonschema import Draft202012Validator
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from tests.api.conftest import Api, said
from webapp.accounts.models import User
from webapp.api.reading import kind_of


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            yield f"{method.upper()} {path}", described


def test_it_is_valid_openapi_3_1_and_open_to_everybody(api: Callable[..., Api]) -> None:
    document = said(api().get("/openapi.json"))
    assert document["openapi"].startswith("3.1")
    OPENAPI_31_VALIDATOR.validate(document)
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    ids = [described["operationId"] for _, described in operations(document)]
    assert len(ids) == len(set(ids))


def test_each_operation_is_whole(api: Callable[..., Api]) -> None:
    document = said(api().get("/openapi.json"))
    lacking = []
    for name, described in operations(document):
        needed = {"401", "403", "429"} | ({"404"} if "{" in name else set())
        if needed - set(described["responses"]):
            lacking.append(f"{name} tells not of {needed - set(described['responses'])}")
        if not (described["summary"] and described["tags"] and described["security"]):
            lacking.append(f"{name} has no summary, tag or scope")
        keyed = any(each["name"] == "Idempotency-Key" for each in described["parameters"])
        if keyed == name.startswith("GET "):
            lacking.append(f"{name} has a wrong Idempotency-Key")
        if "requestBody" in described and "422" not in described["responses"]:
            lacking.append(f"{name} takes a body and refuses none")
    assert lacking == []


def test_the_page_shows_every_operation(
    client_of: Callable[[User], Client], stranger: User, client: Client, api: Callable[..., Api]
) -> None:
    page = client_of(stranger).get("/api/").content.decode()
    for name, described in operations(said(api().get("/openapi.json"))):
        assert f'id="{described["operationId"]}"' in page, name
        assert f"<code>{name.split(' ')[1]}</code>" in page
    assert "Authorization: Bearer $CALIPER_TOKEN" in page
    assert client.get("/api/").status_code == 302, "for people who are signed in"


def test_kinds_in_words() -> None:
    assert kind_of({"anyOf": [{"type": "string"}, {"type": "null"}]}) == "text or null"
    assert kind_of({"type": "array", "items": {"$ref": "#/components/schemas/PairOut"}}) == "list of PairOut"
    assert kind_of({"enum": ["a", "b"], "type": "string"}) == "one of a, b"
    assert kind_of({}) == "anything"
