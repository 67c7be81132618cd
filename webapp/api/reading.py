"""The OpenAPI document as the page /api/ shows it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Field:
    name: str
    kind: str
    required: bool
    help: str
    place: str = ""


@dataclass(frozen=True)
class Operation:
    id: str
    method: str
    path: str
    summary: str
    description: str
    scope: str
    parameters: list[Field]
    body: list[Field]
    body_type: str
    answers: list[tuple[str, str, list[Field]]]
    curl: str


@dataclass(frozen=True)
class Section:
    """The operations of one subject."""

    name: str
    operations: list[Operation] = field(default_factory=list)


def sections(document: Mapping[str, Any]) -> list[Section]:
    """The operations by their first tag, in the document's order."""
    found: dict[str, Section] = {}
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            name = described["tags"][0]
            found.setdefault(name, Section(name)).operations.append(
                _operation(document, path, method.upper(), described)
            )
    return list(found.values())


def types(document: Mapping[str, Any]) -> list[tuple[str, str, list[Field]]]:
    """Name, description and fields of each object that routes take or answer with."""
    return [
        (name, schema.get("description", ""), _own_fields(schema))
        for name, schema in sorted(document["components"]["schemas"].items())
        if schema.get("properties") and not name.startswith("Page_")
    ]


def _operation(
    document: Mapping[str, Any], path: str, method: str, described: Mapping[str, Any]
) -> Operation:
    content: Mapping[str, Any] = described.get("requestBody", {}).get("content", {})
    body_type = next(iter(content), "")
    schema = _resolved(document, content[body_type].get("schema", {}) if body_type else {})
    scopes = [scope for each in described["security"] for scope in each["BearerToken"]]
    return Operation(
        id=described["operationId"],
        method=method,
        path=path,
        summary=described["summary"],
        description=described.get("description", ""),
        scope=" or ".join(scopes),
        parameters=[
            Field(
                each["name"],
                kind_of(each["schema"]),
                each["required"],
                each.get("description", ""),
                each["in"],
            )
            for each in described["parameters"]
        ],
        body=_fields(document, schema),
        body_type=body_type,
        answers=_answers(document, described["responses"]),
        curl=_curl(method, path, body_type, _example(document, schema)),
    )


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def _answers(document: Mapping[str, Any], responses: Mapping[str, Any]) -> list[tuple[str, str, list[Field]]]:
    """Status, words and fields of each answer but the problems; two of the same fields in one."""
    found: dict[str, tuple[list[str], str, list[Field]]] = {}
    for status, answer in responses.items():
        if "$ref" not in answer:
            fields = [
                replace(each, required=False) for each in _fields(document, _answer_schema(document, answer))
            ]
            found.setdefault(str(fields), ([], answer.get("description", ""), fields))[0].append(str(status))
    return [(" or ".join(statuses), words, fields) for statuses, words, fields in found.values()]


def _answer_schema(document: Mapping[str, Any], answer: Mapping[str, Any]) -> Mapping[str, Any]:
    content: Mapping[str, Any] = next(iter(answer.get("content", {}).values()), {})
    return _resolved(document, content.get("schema", {}))


def _fields(document: Mapping[str, Any], schema: Mapping[str, Any]) -> list[Field]:
    if "items" in schema.get("properties", {}):  # a page of a list: what its items are is of interest
        schema = _resolved(document, schema["properties"]["items"].get("items", {}))
    return _own_fields(schema)


def _own_fields(schema: Mapping[str, Any]) -> list[Field]:
    required = schema.get("required", ())
    return [
        Field(name, kind_of(each), name in required, each.get("description", ""))
        for name, each in schema.get("properties", {}).items()
    ]


def kind_of(schema: Mapping[str, Any]) -> str:
    """A schema in a few words: “text or null”, “list of Message”, “one of a, b, tie”."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return json.dumps(schema["const"])
    if choices := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return " or ".join(kind_of(each) for each in choices)
    if schema.get("type") == "array":
        return f"list of {kind_of(schema.get('items', {}))}"
    names = {"string": "text", "integer": "whole number", "boolean": "true or false", None: "anything"}
    kind = schema.get("type")
    if schema.get("format") == "date-time":
        return "time"
    if schema.get("format") == "binary":
        return "file"
    return names.get(kind, str(kind))


def _example(document: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The required fields of a body, filled with something of their kind."""
    simple = {"string": "…", "integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}}
    example: dict[str, Any] = {}
    for name in schema.get("required", ()):
        each = _resolved(document, schema["properties"][name])
        example[name] = each["enum"][0] if "enum" in each else simple.get(each.get("type", "string"), "…")
    return example


def _curl(method: str, path: str, body_type: str, example: dict[str, Any]) -> str:
    words = ["curl", "-H", '"Authorization: Bearer $CALIPER_TOKEN"']
    if method != "GET":
        words += ["-X", method]
    if body_type == "application/json":
        words += ["--json", f"'{json.dumps(example, ensure_ascii=False)}'"]
    elif body_type == "multipart/form-data":
        words += ["-F", "files=@FILE"]
    return " ".join([*words, f'"$CALIPER_URL{path}"'])
