"""The endpoints that the operator offers: the TOML file that CALIPER_ENDPOINTS names, a table an endpoint.

    [local]
    url = "http://127.0.0.1:8000/v1"
    model = "Qwen2.5-7B-Instruct"

No person types an address, so nobody can let the server call another; pages and commands say endpoint:local.
webapp/corpus/endpoints.py reads the same file for the pages, without the keys.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..config import Refused

VARIABLE = "CALIPER_ENDPOINTS"
PREFIX = "endpoint:"
NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,99}", re.ASCII)
# What a table may say: its type in words, and the bounds of numbers.
TEXTS = ("url", "model", "key_env", "key_file", "currency")
NUMBERS: dict[str, tuple[float, float]] = {
    "concurrency": (1, 256),
    "timeout": (1, 3600),
    "input_price": (0, 1e6),
    "output_price": (0, 1e6),
}


@dataclass(frozen=True)
class Endpoint:
    """One OpenAI-compatible endpoint. Prices are per million tokens; None where the operator gave none."""

    name: str
    url: str  # up to and with /v1
    model: str
    key: str = field(default="", repr=False)
    concurrency: int = 8  # requests at a time
    timeout: float = 120.0  # seconds for one answer
    input_price: float | None = None
    output_price: float | None = None
    currency: str = "USD"

    @property
    def priced(self) -> bool:
        return self.input_price is not None and self.output_price is not None

    def cost(self, tokens_in: int, tokens_out: int) -> float | None:
        """What so many tokens cost; None without prices."""
        if self.input_price is None or self.output_price is None:
            return None
        return (tokens_in * self.input_price + tokens_out * self.output_price) / 1e6


def is_endpoint(base_model: str) -> bool:
    return base_model.startswith(PREFIX)


def endpoint_named(base_model: str) -> Endpoint:
    """The endpoint of endpoint:NAME with its key. Raises Refused, in words without the address and the key."""
    name = base_model.removeprefix(PREFIX)
    path = os.environ.get(VARIABLE, "")
    if not path:
        raise Refused(f"{base_model} is not known here: {VARIABLE} names no file. The operator sets it.")
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(
            f"the file of {VARIABLE} can't be read ({error.strerror}). The operator mends it."
        ) from None
    except ValueError as error:  # also no UTF-8
        raise Refused(f"the file of {VARIABLE} is no TOML: {error}. The operator mends it.") from None
    table = tables.get(name)
    if not isinstance(table, dict):
        raise Refused(f"{base_model} is not known here: the file of {VARIABLE} has no table [{name}].")
    if mistakes := table_mistakes(name, table):
        raise Refused(f"{base_model}: {mistakes[0]} The operator mends the file of {VARIABLE}.")
    values = {key: table[key] for key in table if key not in ("key_env", "key_file")}
    values["url"] = values["url"].rstrip("/")
    return Endpoint(name=name, key=_key(base_model, table), **values)


def table_mistakes(name: str, table: Mapping[str, Any]) -> list[str]:
    """What is wrong with a table, each as a sentence; [] if nothing is. webapp/corpus/endpoints.py has the same."""
    found = []
    if not NAME.fullmatch(name):
        found.append(
            f"[{name}] is no name: use letters, digits, _ - and dots, and begin with no dot or dash."
        )
    for key in table:
        if key not in (*TEXTS, *NUMBERS):
            found.append(f"[{name}] has {key}, which is unknown. Known: {', '.join((*TEXTS, *NUMBERS))}.")
    for key in ("url", "model"):
        if not table.get(key):
            found.append(f"[{name}] lacks {key}.")
    for key in TEXTS:
        if key in table and not isinstance(table[key], str):
            found.append(f"[{name}] {key} must be a text in quotes.")
    for key, (low, high) in NUMBERS.items():
        value = table.get(key, low)
        whole = key == "concurrency"
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            found.append(f"[{name}] {key} must be a {'whole ' if whole else ''}number.")
        elif not low <= value <= high:
            found.append(f"[{name}] {key} is {value}; it must lie between {low:g} and {high:g}.")
    if ("input_price" in table) != ("output_price" in table):
        found.append(
            f"[{name}] has one of input_price and output_price: give both (per million tokens), or none."
        )
    if "key_env" in table and "key_file" in table:
        found.append(f"[{name}] has key_env and key_file: keep one.")
    if isinstance(table.get("url"), str) and not _is_address(table["url"]):
        found.append(
            f"[{name}] url must be http(s)://HOST/... up to /v1, without a name, a password or a question mark."
        )
    return found


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    plain = not (parts.username or parts.password or parts.query or parts.fragment or re.search(r"\s", url))
    return parts.scheme in ("http", "https") and bool(host) and plain


def _key(base_model: str, table: Mapping[str, Any]) -> str:
    """The key from where the table says; empty where it says none."""
    if variable := table.get("key_env"):
        key = os.environ.get(variable, "").strip()
        if not key:
            raise Refused(f"{base_model}: its key should be in {variable}, which is not set for the worker.")
    elif path := table.get("key_file"):
        try:
            key = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            key = ""
        if not key:
            raise Refused(f"{base_model}: its key_file can't be read by the worker, or is empty.")
    else:
        return ""
    if not key.isascii() or not key.isprintable() or " " in key:
        raise Refused(f"{base_model}: its key has a blank, a line's end or another sign that no key has.")
    return key
