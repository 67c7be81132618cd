"""Writes caliper/types.py: `python -m tests.client.made_types`, after a schema of the API has changed."""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[2] / "caliper" / "types.py"
_HEAD = '''"""What the API answers, as dictionaries with types.

Made from its schemas by `python -m tests.client.made_types`. Times are ISO 8601 in UTC.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict
'''


def made(document: dict[str, Any]) -> str:
    """The module's text: a TypedDict for each object that some answer of the document holds."""
    schemas = document["components"]["schemas"]
    names = dict.fromkeys(_answered(document))
    return "\n\n".join([_HEAD, *(_class(name, schemas[name]) for name in sorted(names, key=_named))])


def _answered(document: dict[str, Any]) -> Iterator[str]:
    """The names of the objects in answers that aren't problems; of a page those in its items."""
    schemas, seen = document["components"]["schemas"], set[str]()
    waiting = [
        content["schema"]
        for methods in document["paths"].values()
        for operation in methods.values()
        for status, answer in operation["responses"].items()
        if str(status).startswith("2")
        for content in answer.get("content", {}).values()
        if "schema" in content
    ]
    while waiting:
        for name in _references(waiting.pop()):
            if name not in seen:
                seen.add(name)
                waiting.append(schemas[name])
                if not _is_page(schemas[name]):
                    yield name


def _is_page(schema: dict[str, Any]) -> bool:
    return set(schema.get("properties", {})) == {"items", "next"}


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"].rpartition("/")[2]
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _named(name: str) -> str:
    return name.removesuffix("Out")


def _class(name: str, schema: dict[str, Any]) -> str:
    lines = [f"class {_named(name)}(TypedDict):"]
    if told := " ".join(schema.get("description", "").split()):
        lines += textwrap.wrap(f'"""{told}"""', 100, initial_indent="    ", subsequent_indent="    ") + [""]
    lines += [f"    {field}: {_type(each)}" for field, each in schema["properties"].items()]
    return "\n".join(lines) + "\n"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return _named(schema["$ref"].rpartition("/")[2])
    if choices := schema.get("anyOf") or schema.get("allOf"):
        return " | ".join(_type(each) for each in choices)
    if "const" in schema:
        return f"Literal[{schema['const']!r}]"
    if "enum" in schema:
        return f"Literal[{', '.join(map(repr, schema['enum']))}]"
    match schema.get("type"):
        case "array":
            return f"list[{_type(schema.get('items', {}))}]"
        case "object":
            values = schema.get("additionalProperties")
            return f"dict[str, {_type(values) if isinstance(values, dict) else 'Any'}]"
        case kind:
            simple = {
                "string": "str",
                "integer": "int",
                "number": "float",
                "boolean": "bool",
                "null": "None",
            }
            return simple.get(kind or "", "Any")


def formatted(text: str) -> str:
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(FILE), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    import os

    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    django.setup()
    from webapp.api.api import api

    FILE.write_text(formatted(made(api.get_openapi_schema())), encoding="utf-8")
