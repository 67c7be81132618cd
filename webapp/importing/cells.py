"""Lists and objects that were written into a text, as in a cell of CSV: as JSON, or as Python (pandas) writes them."""

import ast
import re
from typing import Any

from webapp.importing import jsontext
from webapp.importing.sources import MAX_ROW_BYTES, Unreadable

MAX_PARTS = 100_000
MAX_DEPTH = 50
# A text in either kind of quotes (no backtracking: texts are long), or one sign, or blanks.
_PYTHON = re.compile(
    r"""'[^'\\]*+(?:\\.[^'\\]*+)*+'|"[^"\\]*+(?:\\.[^"\\]*+)*+"|\s+|[^\s'"\[\]{}(),:]+|.""", re.DOTALL
)


def parsed_cell(value: Any) -> Any:
    """The list or object that a text holds, as JSON or in Python's words; every other value as it is."""
    if not isinstance(value, str) or len(value) > MAX_ROW_BYTES:
        return value
    text = value.strip()
    if text[:1] + text[-1:] not in ("[]", "{}"):
        return value
    if jsontext.too_many_values(text):
        return value
    try:
        found = jsontext.decode(text)
    except (ValueError, RecursionError):
        found = _python(text)
    return found if isinstance(found, list | dict | Unreadable) else value


def _python(text: str) -> Any:
    """The value of a Python literal, None if it is none. Lists as numpy writes them, without commas, are read too."""
    source = _with_commas(text)
    if source is None:
        return None
    try:
        tree = ast.parse(source, mode="eval")
        double = _double_key(tree)
        if double is not None:
            return Unreadable(f"an object with the key “{double[:60]}” twice", "Keep one of them.")
        found = ast.literal_eval(tree)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return found if _is_json(found) else None


def _with_commas(text: str) -> str | None:
    """The literal with commas between values that only blanks part; None where it is too large or too deep.

    Without them Python would join two texts into one.
    """
    parts: list[str] = []
    depth = 0
    ended = False  # a value has ended, and no comma or colon followed
    for match in _PYTHON.finditer(text):
        part = match[0]
        if len(parts) > 2 * MAX_PARTS or depth > MAX_DEPTH:
            return None
        if part.isspace():
            parts.append(" ")
            continue
        if part in ",:":
            ended = False
        elif part in "]})":
            depth, ended = depth - 1, True
        else:
            if part == "array":  # numpy's name before a list, in brackets
                return None
            if ended:
                parts.append(",")
            depth += part in "[{("
            ended = part not in "[{("
        parts.append(part)
    return "".join(parts)


def _double_key(tree: ast.AST) -> str | None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            if len({(type(key), key) for key in keys}) < len(keys):
                return str(next(key for place, key in enumerate(keys) if key in keys[:place]))
    return None


def _is_json(value: Any, depth: int = 0) -> bool:
    if depth > MAX_DEPTH:
        return False
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(inner, depth + 1) for key, inner in value.items())
    if isinstance(value, list):
        return all(_is_json(inner, depth + 1) for inner in value)
    return value is None or isinstance(value, str | bool | int | float)
