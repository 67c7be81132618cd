"""What goes wrong between here and a server, in words that say what to do."""

from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field of what was sent, and the remedy."""

    field: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return " ".join(
            part for part in (f"{self.field}:" if self.field else "", self.message, self.remedy) if part
        )


class CaliperError(Exception):
    """A server refused, failed or did not answer.

    `status` is the HTTP status, or None where no answer came. `errors` names the fields that are wrong. `problem` is
    the whole problem document (RFC 9457).
    """

    def __init__(
        self,
        title: str,
        *,
        status: int | None = None,
        detail: str = "",
        errors: tuple[FieldError, ...] = (),
        problem: dict[str, Any] | None = None,
    ) -> None:
        self.title, self.status, self.detail, self.errors = title, status, detail, errors
        self.problem = problem or {}
        said = detail or title
        lines = [f"  {error}" for error in errors if f"{error.message} {error.remedy}".strip() != said]
        super().__init__("\n".join([said, *lines]))

    @classmethod
    def of(cls, answer: httpx.Response) -> "CaliperError":
        """The error that an answer with a status of 300 or more tells. Its body has been read."""
        try:
            problem = answer.json()
        except ValueError:
            problem = None
        status = answer.status_code
        if answer.is_redirect:
            place = answer.headers.get("location", "elsewhere")
            return cls(
                "Redirected",
                status=status,
                detail=f"{place_of(answer.url)} redirects to {place}. Use that address.",
            )
        if not isinstance(problem, dict):
            # A proxy, or no Caliper at all.
            title = f"{status} {answer.reason_phrase}".strip()
            return cls(
                title,
                status=status,
                detail=f"{place_of(answer.url)} answered {title}, without a reason in words.",
            )
        rows = problem.get("errors")
        errors = tuple(
            FieldError(str(row.get("field", "")), str(row.get("message", "")), str(row.get("remedy", "")))
            for row in (rows if isinstance(rows, list) else [])
            if isinstance(row, dict)
        )
        title = str(problem.get("title") or f"{status} {answer.reason_phrase}".strip())
        detail = str(problem.get("detail") or "")
        return cls(title, status=status, detail=detail, errors=errors, problem=problem)


def place_of(url: httpx.URL) -> str:
    """An address as messages name it: without a password and a query."""
    return str(url.copy_with(username=None, password=None, query=None, fragment=None))


def read_json(answer: httpx.Response) -> Any:
    """What an answer says. Raises CaliperError where it is no JSON."""
    try:
        return answer.json()
    except ValueError as error:
        raise CaliperError(
            "No JSON",
            status=answer.status_code,
            detail=f"{place_of(answer.url)} answers, but not as Caliper does. Check the address.",
        ) from error
