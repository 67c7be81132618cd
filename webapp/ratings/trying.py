"""Trying a model on pasted texts: what is asked goes to the worker that scores, and the answer back, through Redis.

The database never sees the texts. They leave Redis as soon as a worker takes them; the figures, and the first words of
each response, are gone KEPT_SECONDS after they were asked for. A token names them that nobody can guess, and only the
person who asked may read them.
"""

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis
from kombu.exceptions import OperationalError

from webapp import heartbeat
from webapp.accounts.models import User
from webapp.broker import redis_client
from webapp.celery import send
from webapp.corpus.conversations import Message
from webapp.training.models import ModelVersion

TASK = "workers.tasks.score_texts"
QUEUE = "score"
KEPT_SECONDS = 600
# A first answer waits for PyTorch and the model; one that takes longer than this is not worth waiting for.
PATIENCE_SECONDS = 120
PER_MINUTE = 12
BEGINNING = 160
"""Characters of each response that are kept beside its figures."""

SILENT = "broker"
UNREAD = "worker"


class TooOften(Exception):
    """One person asked more than PER_MINUTE times in a minute."""


class NobodyAnswers(Exception):
    """The broker is silent, or no worker reads the queue; the message is SILENT or UNREAD."""


@dataclass(frozen=True)
class Trial:
    """What is known of texts that were asked about: all but the texts."""

    token: str
    version: int
    messages: int
    numbers: list[int]  # of the boxes that were filled
    beginnings: list[str]
    asked_at: float
    taken: bool = False
    rows: list[dict[str, Any]] | None = None  # as workers.rewards.score.score_and_claim writes them
    error: str = ""

    @property
    def waits(self) -> bool:
        return self.rows is None and not self.error and time.time() - self.asked_at < PATIENCE_SECONDS


def _key(token: str, part: str) -> str:
    return f"caliper:trial:{token}:{part}"


def worker_check() -> None:
    """Raises NobodyAnswers unless a worker that scores is known to live."""
    try:
        with redis_client() as client:
            if not heartbeat.readers(client, (QUEUE,))[QUEUE]:
                raise NobodyAnswers(UNREAD)
    except redis.RedisError:
        raise NobodyAnswers(SILENT) from None


def trial_ask(
    *, user: User, version: ModelVersion, messages: Sequence[Message], responses: dict[int, str]
) -> str:
    """Send texts, by the number of their box, to a worker; the token of the answer to come.

    Raises NobodyAnswers or TooOften.
    """
    worker_check()
    token, counter = secrets.token_urlsafe(24), f"caliper:trials-of:{user.pk}"
    about = {
        "user": user.pk,
        "project": version.project_id,
        "version": version.pk,
        "messages": len(messages),
        "numbers": list(responses),
        "beginnings": [text[:BEGINNING] for text in responses.values()],
        "asked_at": time.time(),
    }
    texts = {"version": version.pk, "messages": list(messages), "texts": list(responses.values())}
    try:
        with redis_client() as client:
            client.set(counter, 0, ex=60, nx=True)
            if int(client.incr(counter)) > PER_MINUTE:
                raise TooOften
            client.set(_key(token, "about"), json.dumps(about), ex=KEPT_SECONDS)
            client.set(_key(token, "texts"), json.dumps(texts), ex=PATIENCE_SECONDS)
        send(TASK, token, queue=QUEUE, expires=PATIENCE_SECONDS)
    except (redis.RedisError, OperationalError):
        raise NobodyAnswers(SILENT) from None
    return token


def trial_take(token: str) -> dict[str, Any] | None:
    """In a worker: the version, messages and texts, which are in Redis no more; None if they ran out."""
    with redis_client() as client:
        once = client.pipeline()
        once.get(_key(token, "texts"))
        once.delete(_key(token, "texts"))
        found = once.execute()[0]
        if found is not None:
            client.set(_key(token, "taken"), 1, ex=KEPT_SECONDS)
    return None if found is None else json.loads(found)


def trial_answer(token: str, *, rows: list[dict[str, Any]] | None = None, error: str = "") -> None:
    """In a worker: leave the figures, or why there are none, for as long as what was asked is kept."""
    with redis_client() as client:
        left = int(client.ttl(_key(token, "about")))
        if left > 0:
            client.set(_key(token, "answer"), json.dumps({"rows": rows, "error": error}), ex=left)


def trial_read(token: str, *, user: User, project: int) -> Trial | None:
    """What the person asked under this token in this project; None if it ran out, or somebody else asked it.

    Raises NobodyAnswers if the broker is silent.
    """
    try:
        with redis_client() as client:
            about, taken, answer = client.mget([_key(token, part) for part in ("about", "taken", "answer")])
    except redis.RedisError:
        raise NobodyAnswers(SILENT) from None
    asked = json.loads(about) if about else {}
    if asked.pop("user", None) != user.pk or asked.pop("project", None) != project:
        return None
    return Trial(token, **asked, taken=bool(taken), **(json.loads(answer) if answer else {}))
