"""Signs of life: each Celery worker writes down that it lives and which queues it reads; /healthz reads that.

Cheaper than asking the workers: an answer to Celery's `inspect` costs its whole time-out.
"""

import json
import logging
import time
from typing import Any

import redis
from celery.signals import after_task_publish, heartbeat_sent, task_postrun, task_prerun, worker_shutting_down
from django.conf import settings

from webapp.broker import redis_client

logger = logging.getLogger(__name__)

KEY = "caliper:workers"
"""Redis hash: worker name -> {"queues": [...], "at": seconds since 1970}."""

BEAT_KEY = "caliper:beat"
"""There while beat sends its ticks."""

TASKS_KEY = "caliper:tasks"
"""Redis hash, for /metrics: "TASK|done", "TASK|failed" and "TASK|seconds" -> how many, how long."""

DONE, FAILED, SECONDS = "done", "failed", "seconds"

TICK = "workers.tasks.tick"

SIGN_EVERY_SECONDS = 5
SILENT_AFTER_SECONDS = 30
FORGET_AFTER_SECONDS = 24 * 3600

_last_sign = 0.0
_began: dict[str, float] = {}
"""Of the tasks that this process works on: id -> when it began, by the monotonic clock."""


@heartbeat_sent.connect
def sign(sender: Any, **_: Any) -> None:
    """In a Celery worker, at its heartbeat: write its name and queues, at most every few seconds."""
    global _last_sign
    now = time.time()
    if now - _last_sign < SIGN_EVERY_SECONDS:
        return
    _last_sign = now
    queues = sorted(sender.eventer.app.amqp.queues.consume_from)
    try:
        with redis_client() as client:
            client.hset(KEY, sender.eventer.hostname, json.dumps({"queues": queues, "at": now}))
    except redis.RedisError as error:
        logger.warning("could not write this worker's sign of life: %s", error)


@after_task_publish.connect(sender=TICK)
def sign_beat(**_: Any) -> None:
    """In beat, which alone sends ticks: the broker took one. The sign fades when a few in turn don't get there."""
    try:
        with redis_client() as client:
            client.set(BEAT_KEY, int(time.time()), ex=int(3 * settings.TICK_SECONDS) + 15)
    except redis.RedisError as error:
        logger.warning("could not write beat's sign of life: %s", error)


@task_prerun.connect
def task_began(task_id: str, **_: Any) -> None:
    if settings.METRICS_TOKEN:
        _began[task_id] = time.monotonic()


@task_postrun.connect
def task_ended(task_id: str, task: Any, state: str | None = None, **_: Any) -> None:
    """Count the task, and its time, for /metrics."""
    if (began := _began.pop(task_id, None)) is None:
        return
    try:
        with redis_client() as client, client.pipeline(transaction=False) as pipe:
            pipe.hincrby(TASKS_KEY, f"{task.name}|{DONE if state == 'SUCCESS' else FAILED}", 1)
            pipe.hincrbyfloat(TASKS_KEY, f"{task.name}|{SECONDS}", round(time.monotonic() - began, 3))
            pipe.execute()
    except redis.RedisError as error:
        logger.warning("could not count a task: %s", error)


def beat_lives() -> bool:
    with redis_client() as client:
        return bool(client.exists(BEAT_KEY))


@worker_shutting_down.connect
def sign_off(sender: str, **_: Any) -> None:
    """A worker that stops in good order is gone at once, not after it has been silent for a while."""
    global _last_sign
    _last_sign = time.time() + FORGET_AFTER_SECONDS  # no more signs while the last tasks end
    try:
        with redis_client() as client:
            client.hdel(KEY, sender)
    except redis.RedisError as error:
        logger.warning("could not take back this worker's sign of life: %s", error)


def readers(client: redis.Redis, queues: tuple[str, ...]) -> dict[str, list[str]]:
    """Of each queue, the names of the live workers that read it. Forgets workers silent for a day."""
    now = time.time()
    found: dict[str, list[str]] = {queue: [] for queue in queues}
    signs: dict[str, str] = client.hgetall(KEY)  # type: ignore[assignment]
    for name, text in sorted(signs.items()):
        signed = json.loads(text)
        if now - signed["at"] > FORGET_AFTER_SECONDS:
            client.hdel(KEY, name)
        elif now - signed["at"] <= SILENT_AFTER_SECONDS:
            for queue in set(signed["queues"]) & set(queues):
                found[queue].append(name)
    return found
