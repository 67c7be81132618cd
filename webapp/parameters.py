"""What comes out of an address or a form, before anybody relies on it."""

import re
from typing import Any

from django.urls import register_converter

# The largest primary key has 19 digits; a number below that fits every database's 64 bits.
_KEY_DIGITS = 18


def int_parameter(parameters: Any, name: str) -> int | None:
    """A whole number from 0 on of a query string or form; None where there is no such number."""
    text = parameters.get(name) or ""
    return int(text) if re.fullmatch(rf"[0-9]{{1,{_KEY_DIGITS}}}", text) else None


class KeyConverter:
    """`<key:pk>`: a primary key. Unlike `<int:pk>` it ends where a database's numbers do."""

    regex = rf"[0-9]{{1,{_KEY_DIGITS}}}"

    def to_python(self, value: str) -> int:
        return int(value)

    def to_url(self, value: int) -> str:
        return str(value)


class TokenConverter:
    """`<token:token>`: what secrets.token_urlsafe makes; nothing else reaches the database."""

    regex = "[A-Za-z0-9_-]{1,64}"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


register_converter(KeyConverter, "key")
register_converter(TokenConverter, "token")
