"""What ninja's OpenAPI document lacks: scopes, the errors that each operation may answer, the header of writes."""

from collections.abc import Iterable
from typing import Any

from ninja.operation import Operation

from webapp.api.idempotency import WRITES
from webapp.api.problems import MEDIA_TYPE

_PROBLEM = {
    "title": "Problem",
    "type": "object",
    "description": "What is wrong, and what to do (RFC 9457).",
    "required": ["type", "title", "status", "detail", "errors"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "message", "remedy"],
                "properties": {
                    "field": {"type": "string"},
                    "message": {"type": "string"},
                    "remedy": {"type": "string"},
                },
            },
        },
    },
}
_ERRORS = {
    "400": "The request can't be read",
    "401": "No token, or one that doesn't count",
    "403": "Outside the token's scopes, or not for this role",
    "404": "Nothing there, or not for you",
    "409": "Not as things stand now",
    "413": "Too large",
    "422": "Some of what was sent can't be taken",
    "429": "Too many requests",
}
_IDEMPOTENCY_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "required": False,
    "description": "Draw one for each write, and send it again with a repeated one: it is then done once.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
}


def completed(document: Any, operations: Iterable[Operation]) -> dict[str, Any]:
    """ninja's document with scopes, problem responses and Idempotency-Key."""
    by_id = {each.api.get_openapi_operation_id(each): each for each in operations}
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            write = method.upper() in WRITES
            checks: Any = by_id[described["operationId"]].auth_callbacks
            scopes = [scope for check in checks for scope in check.scopes]
            # One entry suffices: so several scopes stand for any of them.
            described["security"] = [{"BearerToken": [scope]} for scope in scopes] or [{"BearerToken": []}]
            expected = {"401", "403", "422", "429"} | ({"404"} if "{" in path else set())
            expected |= {"400", "409", "413"} if write else {"400"} if described["parameters"] else set()
            for status in sorted(expected - {str(each) for each in described["responses"]}):
                described["responses"][status] = {"$ref": f"#/components/responses/{status}"}
            if write:
                described["parameters"] = [*described["parameters"], _IDEMPOTENCY_KEY]
    components = document["components"]
    components["schemas"]["Problem"] = _PROBLEM
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    components["responses"] = {
        status: {"description": words, "content": content} for status, words in _ERRORS.items()
    }
    return dict(document)
