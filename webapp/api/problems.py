"""Errors as application/problem+json (RFC 9457): what is wrong, where, what to do. Every refusal comes by here."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from django.core import exceptions
from django.forms import BaseForm
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.http.multipartparser import MultiPartParserError
from django.http.request import UnreadablePostError
from ninja.errors import HttpError, ValidationError

from webapp.accounts.services import Refused as AccountRefused
from webapp.benchmarks.services import SetRefused
from webapp.corpus.access import ProjectArchived
from webapp.corpus.options import RunRefused
from webapp.corpus.reason_tags import TagRefused
from webapp.corpus.services import LastAdmin
from webapp.events.services import WebhookRefused
from webapp.importing.undoing import UndoRefused
from webapp.jobs import JobFailed
from webapp.labels.machines import MachineRefused
from webapp.labels.services import Refused as LabelRefused
from webapp.ratings.trying import NobodyAnswers, TooOften
from webapp.training.services import VersionRefused

MEDIA_TYPE = "application/problem+json"

FieldErrors = Iterable[Mapping[str, str]]


class Problem(Exception):
    """An answer that says no. `errors` has {field, message, remedy} each; `members` stand beside them in the answer."""

    def __init__(
        self,
        status: int,
        title: str = "",
        detail: str = "",
        *,
        errors: FieldErrors = (),
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail or title)
        self.status = status
        self.title = title or HTTPStatus(status).phrase
        self.detail = detail
        self.errors = [{"field": "", "message": "", "remedy": "", **error} for error in errors]
        self.headers = headers or {}
        self.members = members

    def response(self) -> HttpResponse:
        body = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "errors": self.errors,
            **self.members,
        }
        return JsonResponse(body, status=self.status, content_type=MEDIA_TYPE, headers=self.headers)


def field_error(field: str, text: str) -> dict[str, str]:
    """What a service says of a field: its first sentence is what is wrong, the rest is the remedy."""
    message, _, remedy = text.partition(". ")
    return {"field": field, "message": f"{message}." if remedy else message, "remedy": remedy}


def refused(errors: FieldErrors, detail: str = "") -> Problem:
    """422: some of what was sent can't be taken."""
    return Problem(
        422, "Not taken", detail or "Some of what was sent can't be taken; errors says what.", errors=errors
    )


def form_refused(form: BaseForm, names: Mapping[str, str] | None = None) -> Problem:
    """422 from the form of the page that does the same; `names` are fields that the API calls otherwise."""
    return refused(
        field_error("" if field == "__all__" else (names or {}).get(field, field), str(message))
        for field, messages in form.errors.items()
        for message in messages
    )


# What the services refuse with: the status, and the title.
_REFUSALS: dict[type[Exception], tuple[int, str]] = {
    ProjectArchived: (409, "The project is archived"),
    RunRefused: (422, "The run can't start"),
    TagRefused: (422, "Not taken"),
    SetRefused: (422, "No new evaluation set"),
    MachineRefused: (422, "Not possible"),
    WebhookRefused: (422, "Not taken"),
    JobFailed: (422, "Not possible"),
    VersionRefused: (409, "Not possible for this version"),
    UndoRefused: (409, "The import can't be taken back"),
    LastAdmin: (409, "Not possible"),
    AccountRefused: (409, "Not possible"),
}

_UNREADABLE = (
    exceptions.SuspiciousOperation,
    exceptions.BadRequest,
    MultiPartParserError,
    UnreadablePostError,
)

# Of pydantic's kinds of errors, those with a remedy of their own.
_REMEDIES = {
    "missing": "Send it.",
    "extra_forbidden": "Leave it out: there is no such field.",
    "string_too_long": "Shorten it.",
    "string_too_short": "Write more.",
}
_SEE = "See the schema at /api/ for what it takes."


def problem_of(error: BaseException) -> Problem | None:
    """An exception of a route as a problem; None for one that nobody foresaw, which is an error of ours."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, ValidationError):
        return refused(_invalid(each) for each in error.errors)
    if isinstance(error, HttpError):
        if isinstance(error.__cause__, Exception) and (cause := problem_of(error.__cause__)):
            return cause  # what the parser said: ninja puts its own words around it
        return Problem(error.status_code, "", error.message)
    if isinstance(error, LabelRefused):
        return refused(field_error(field, text) for field, text in error.errors.items())
    for kind, (status, title) in _REFUSALS.items():
        if isinstance(error, kind):
            field = getattr(error, "field", None)
            errors = [field_error(field, str(error))] if field else []
            return Problem(status, title, str(error), errors=errors)
    if isinstance(error, Http404 | exceptions.ObjectDoesNotExist):
        return _of_status(404)
    if isinstance(error, exceptions.PermissionDenied):
        return Problem(403, "Not allowed", str(error) or _WORDS[403])
    if isinstance(error, exceptions.ValidationError):
        return refused(field_error("", message) for message in error.messages)
    if isinstance(error, TooOften):
        return Problem(429, "Too often", "Wait a minute, then ask again.", headers={"Retry-After": "60"})
    if isinstance(error, NobodyAnswers):
        detail = "No worker answers now. Try again in a minute."
        return Problem(503, "Nobody answers", detail, headers={"Retry-After": "60"})
    if isinstance(error, exceptions.RequestDataTooBig):
        return _of_status(413)
    if isinstance(error, _UNREADABLE):
        return _of_status(400)
    return None


def answer(request: HttpRequest, error: Any) -> HttpResponse:
    """What ninja calls with every exception of a route. One that nobody foresaw goes on to Django, and into the log."""
    problem = problem_of(error)
    if problem is None:
        raise error
    return problem.response()


def _invalid(error: Mapping[str, Any]) -> dict[str, str]:
    source, *place = error["loc"]
    # A body is one argument of the view, whose name is nobody's business.
    place = place[1:] if source == "body" and len(place) > 1 else place
    message = str(error["msg"])
    return {
        "field": ".".join(map(str, place)) or str(source),
        "message": message[:1].upper() + message[1:] + ".",
        "remedy": _REMEDIES.get(error["type"], _SEE),
    }


_WORDS = {
    400: "The request can't be read.",
    403: "Your role does not allow this.",
    404: "There is nothing at this address, or you are not a member of the project it belongs to.",
    405: "This address knows other methods. The page /api/ has them.",
    411: "The request does not say how long it is. Send a Content-Length header.",
    413: "The request is too large. Send less at a time; files are sent to imports.",
    500: "Caliper made a mistake, which is in its log. Nothing was changed.",
}


def _of_status(status: int) -> Problem:
    return Problem(status, "", _WORDS.get(status, ""))


def problem_page(response: HttpResponse) -> HttpResponse:
    """In place of a page that Django made of an error before or behind the routes."""
    problem = _of_status(response.status_code).response()
    if "Allow" in response.headers:
        problem["Allow"] = response["Allow"]
    return problem
