"""The endpoints that the operator offers (CALIPER_ENDPOINTS, a TOML file), as pages and commands may know them.

Nobody types an address: whoever could would let the server call any host. Addresses and keys stay with the workers,
which read the same file (workers/rewards/generative/endpoints.py).
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

from webapp.corpus.options import ENDPOINT

VARIABLE = "CALIPER_ENDPOINTS"
NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,99}", re.ASCII)
TEXTS = ("url", "model", "key_env", "key_file", "currency")
NUMBERS: dict[str, tuple[float, float]] = {
    "concurrency": (1, 256),
    "timeout": (1, 3600),
    "input_price": (0, 1e6),
    "output_price": (0, 1e6),
}


@dataclass(frozen=True)
class Endpoint:
    """What may be told of an endpoint. Prices are per million tokens; None where the operator gave none."""

    name: str  # endpoint:NAME
    model: str
    key_env: str
    input_price: float | None
    output_price: float | None
    currency: str

    def cost(self, tokens_in: float, tokens_out: float) -> float | None:
        """What so many tokens cost; None without prices."""
        if self.input_price is None or self.output_price is None:
            return None
        return (tokens_in * self.input_price + tokens_out * self.output_price) / 1e6


def endpoints() -> list[Endpoint]:
    """Those whose tables are sound, by name; the operator learns of the others' mistakes at the start."""
    return [
        Endpoint(
            name=f"{ENDPOINT}{name}",
            model=table["model"],
            key_env=table.get("key_env", ""),
            input_price=table.get("input_price"),
            output_price=table.get("output_price"),
            currency=table.get("currency", "USD"),
        )
        for name, table in sorted(_tables()[0].items())
        if isinstance(table, dict) and not table_mistakes(name, table)
    ]


def endpoint_named(name: object) -> Endpoint | None:
    """The endpoint of endpoint:NAME, if the operator offers it."""
    return next((each for each in endpoints() if each.name == name), None)


def endpoint_environment(name: str) -> dict[str, str]:
    """What a child that asks this endpoint needs of the environment: the file's path, and the variable of its key."""
    endpoint = endpoint_named(name)
    if endpoint is None:
        return {}
    given = {VARIABLE: str(settings.ENDPOINTS_FILE)}
    if endpoint.key_env in os.environ:
        given[endpoint.key_env] = os.environ[endpoint.key_env]
    return given


def endpoint_mistakes() -> list[str]:
    """What is wrong with the operator's file, each as a sentence."""
    tables, mistake = _tables()
    found = [mistake] if mistake else []
    for name, table in tables.items():
        if isinstance(table, dict):
            found += table_mistakes(name, table)
        else:
            found.append(f"{name} stands outside a table: begin with a line [NAME].")
    return found


def _tables() -> tuple[dict[str, Any], str]:
    """The file's tables, and why there are none."""
    path: Path | None = settings.ENDPOINTS_FILE
    if path is None:
        return {}, ""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")), ""
    except OSError as error:
        return {}, f"{path} can't be read: {error.strerror}."
    except ValueError as error:  # also no UTF-8
        return {}, f"{path} is no TOML: {error}."


def table_mistakes(name: str, table: Mapping[str, Any]) -> list[str]:
    """What is wrong with a table, each as a sentence; [] if nothing is. The worker's reader has the same."""
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
