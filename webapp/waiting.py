"""What a page says about a job that waits, and whether the page has to change at all."""

import hashlib
import json
import logging
from datetime import timedelta
from typing import Any

import redis
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone

from webapp import heartbeat
from webapp.broker import redis_client
from webapp.jobs import Job, State

logger = logging.getLogger(__name__)

# A job that waits longer than this may wait for a worker that isn't there; then the broker is asked.
WAITS_LONG = timedelta(seconds=6)


def waiting_for_worker(job: Job) -> str:
    """Why a queued job has not begun, if it should have by now; empty otherwise."""
    if job.state != State.QUEUED or timezone.now() - job.queued_at < WAITS_LONG:
        return ""
    try:
        with redis_client() as client:
            listening = heartbeat.readers(client, (job.queue,))[job.queue]
    except (redis.RedisError, ValueError):
        logger.exception("the broker doesn't answer")
        return "Waiting for a worker: the broker (Redis) doesn't answer. It starts when the broker is back."
    if not listening:
        return (
            f"Waiting for a worker; is one running? None is listening to the “{job.queue}” queue. "
            "“make run” starts one, and /healthz tells which are there."
        )
    return "Waiting for a worker: all of them are busy."


def change_token(*seen: Any) -> str:
    """A short text that changes when what a fragment shows does."""
    return hashlib.sha256(json.dumps(seen, default=str).encode()).hexdigest()[:16]


def unless_seen(request: HttpRequest, token: str, template: str, context: dict[str, Any]) -> HttpResponse:
    """The fragment; 204 while nothing changed since the `token` the page has."""
    if request.GET.get("token") == token:
        return HttpResponse(status=204)
    return render(request, template, context)
