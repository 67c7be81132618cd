"""What a log line holds: one line of text, or one JSON object a line (CALIPER_LOG_JSON) for a collector.

Callers use the standard library's logging. structlog adds what the line belongs to: `request_id` in a request, `run` or
`job` while a job is worked on, `task` and `task_id` in a Celery worker. No line holds a token, a secret or a link that
lets somebody in, whoever wrote it.
"""

import logging
import re
import uuid
from collections.abc import Callable
from typing import Any

import structlog
from django.http import HttpRequest, HttpResponseBase

HEADER = "X-Request-ID"

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# API tokens, webhooks' secrets, what follows "Bearer", and the addresses by which somebody joins or sets a password.
_SECRET = re.compile(r"(\bcal_|\bwhsec_|\bBearer\s+|/join/|/reset/[^/\s]+/)[^\s/'\",;)\]}]+", re.IGNORECASE)

Event = dict[str, Any]


def without_secrets(logger: Any, method: str, event: Event) -> Event:
    """A structlog processor: secrets in the text and the traceback become an ellipsis."""
    for name in ("event", "exception"):
        if name in event:
            event[name] = _SECRET.sub(r"\1…", str(event[name]))
    return event


def as_text(logger: Any, method: str, event: Event) -> str:
    """A structlog renderer: "TIME LEVEL logger: text [name=value ...]", and the traceback below."""
    head = (
        f"{event.pop('timestamp')} {event.pop('level').upper()} {event.pop('logger')}: {event.pop('event')}"
    )
    trace = event.pop("exception", "")
    bound = " ".join(f"{name}={value}" for name, value in sorted(event.items()))
    return head + (f" [{bound}]" if bound else "") + (f"\n{trace}" if trace else "")


def logging_settings(*, level: str, as_json: bool) -> dict[str, Any]:
    """Django's LOGGING; Python's warnings become lines as well."""
    logging.captureWarnings(True)
    processors = structlog.processors
    of_any_line = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        processors.TimeStamper(fmt="iso" if as_json else "%Y-%m-%d %H:%M:%S", utc=as_json),
        # Without the values of variables: they may be what people wrote.
        processors.format_exc_info,
        without_secrets,
    ]
    render = processors.JSONRenderer(ensure_ascii=False) if as_json else as_text
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        "foreign_pre_chain": of_any_line,
        "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": formatter},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "lines"}},
        "root": {"handlers": ["console"], "level": level},
        "loggers": {
            # accounts/throttling.py says the same in one line each, with the address.
            "axes": {"level": "ERROR"},
            # They tell each address that is asked, also those that a signature opens.
            "httpx": {"level": "WARNING"},
            "httpx2": {"level": "WARNING"},
        },
    }


class RequestIdMiddleware:
    """Every line of a request has its id, and so has the answer: X-Request-ID where a sane one came, else a new one."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        given = request.headers.get(HEADER, "")
        request_id = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            response = self.get_response(request)
        response.headers[HEADER] = request_id
        return response
