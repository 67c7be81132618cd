"""Bodies and query strings as they come, before any schema: what no database can keep is refused here, by its place."""

import json
from typing import Any, NoReturn

from django.http import HttpRequest
from django.utils.datastructures import MultiValueDict
from ninja.parser import Parser

from webapp.api.problems import Problem, refused

DEEPEST = 64
_LARGEST = 2**63


class StrictParser(Parser):
    """JSON as RFC 8259 has it: UTF-8, no NaN, numbers of 64 bits, texts that are Unicode and have no NUL."""

    def parse_body(self, request: HttpRequest) -> Any:
        try:
            value = json.loads(request.body.decode("utf-8"), parse_constant=_no_number)
        except UnicodeDecodeError as error:
            raise _unreadable(f"It is no UTF-8: byte {error.start + 1} is none of a character.") from None
        except RecursionError:
            raise _unreadable("It is nested too deeply.") from None
        except json.JSONDecodeError as error:
            raise _unreadable(f"{error.msg} at line {error.lineno}, column {error.colno}.") from None
        except ValueError:
            raise _unreadable("A number in it has too many digits.") from None
        check_values(value)
        return value

    def parse_querydict(
        self, data: "MultiValueDict[str, Any]", list_fields: list[str], request: HttpRequest
    ) -> Any:
        found = super().parse_querydict(data, list_fields, request)
        check_values({name: value for name, value in found.items() if isinstance(value, str | list)})
        return found


def check_values(value: Any) -> None:
    """Raises Problem 422 that names the first place of a JSON value which can't be kept."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), value)]
    while waiting:
        place, here = waiting.pop()
        if len(place) > DEEPEST:
            raise _unkept(place[:3], f"This is nested more than {DEEPEST} levels deep", "Nest it less")
        if isinstance(here, dict):
            for name, inner in here.items():
                check_text((*place, "name of a field"), name)
                waiting.append(((*place, name), inner))
        elif isinstance(here, list):
            waiting += [((*place, str(number)), inner) for number, inner in enumerate(here)]
        elif isinstance(here, str):
            check_text(place, here)
        elif isinstance(here, int | float) and not abs(here) < _LARGEST:
            raise _unkept(place, "This number is too large", "Send one below 2^63")


def check_text(place: tuple[str, ...], text: str) -> None:
    if "\x00" in text:
        raise _unkept(place, "This has a NUL character, which no text has", "Take it out")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _unkept(place, "This has half a surrogate pair, which is no character", "Take it out") from None


def _no_number(name: str) -> NoReturn:
    raise _unreadable(f"{name} is no number of JSON: send null.")


def _unreadable(detail: str) -> Problem:
    return Problem(400, "The body can't be read", f"The body is no JSON that can be read. {detail}")


def _unkept(place: tuple[str, ...], message: str, remedy: str) -> Problem:
    return refused([{"field": ".".join(place)[:200], "message": f"{message}.", "remedy": f"{remedy}."}])
