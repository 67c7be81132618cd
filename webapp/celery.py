"""The Celery application, and the one way by which the web half starts work: by task name, after commit."""

import logging
import os
from typing import Any

from celery import Celery
from celery.schedules import crontab
from celery.signals import task_postrun, task_prerun
from django.conf import settings
from django.db import transaction
from structlog.contextvars import bind_contextvars, clear_contextvars

from webapp import broker, heartbeat  # each worker signs its life; /healthz reads it
from webapp.broker import BrokerSilent

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")

logger = logging.getLogger(__name__)

# How often what webhooks wait for is looked for: judgements are told within so many seconds.
WEBHOOKS_SECONDS = 5

app = Celery("caliper")
app.conf.update(
    broker_url=settings.REDIS_URL,
    # The rows of jobs are the record; Celery's results are not kept.
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=False,
    # A process of the pool that has grown is replaced after its job (kilobytes); see also webapp.limits.
    worker_max_memory_per_child=settings.JOB_MEMORY_BYTES // 1024,
    worker_prefetch_multiplier=1,
    task_default_queue="default",
    task_serializer="json",
    accept_content=["json"],
    broker_connection_retry_on_startup=True,
    # Longer than any run: a redelivered message is harmless (the claim changes 0 rows), but noise.
    broker_transport_options={"visibility_timeout": 7 * 24 * 3600, "socket_connect_timeout": 3},
    timezone=settings.TIME_ZONE,
    worker_hijack_root_logger=False,
    beat_schedule={
        "tick": {
            "task": heartbeat.TICK,
            "schedule": settings.TICK_SECONDS,
            # A queue and a worker of its own, so that no import or export keeps it waiting. While no worker listens,
            # ticks don't pile up.
            "options": {"queue": "housekeeping", "expires": settings.TICK_SECONDS},
        },
        "housekeep": {
            "task": "workers.tasks.housekeep",
            "schedule": 600,
            "options": {"expires": 600, "queue": "housekeeping"},
        },
        "tallies_make": {
            "task": "workers.tasks.tallies_make",
            "schedule": settings.TICK_SECONDS,
            # Not the housekeeping worker's: this may take minutes.
            "options": {"queue": "default", "expires": settings.TICK_SECONDS},
        },
        "webhooks_send": {
            "task": "workers.tasks.webhooks_send",
            "schedule": WEBHOOKS_SECONDS,
            # Not the housekeeping worker's: a receiver may keep it waiting.
            "options": {"queue": "default", "expires": WEBHOOKS_SECONDS},
        },
        "counters_check": {
            "task": "workers.tasks.counters_check",
            "schedule": crontab(hour=3, minute=37),
            "options": {"expires": 3600, "queue": "default"},
        },
        "sessions_clear": {
            "task": "workers.tasks.sessions_clear",
            "schedule": crontab(hour=3, minute=17),
            "options": {"expires": 3600, "queue": "housekeeping"},
        },
    },
    beat_schedule_filename=str(settings.DATA_DIR / "celerybeat-schedule"),
)


@task_prerun.connect
def _log_names(task_id: str, task: Any, **_: Any) -> None:
    """In a worker: every log line of a task has its name and id."""
    clear_contextvars()
    bind_contextvars(task=task.name, task_id=task_id)


@task_postrun.connect
def _no_log_names(**_: Any) -> None:
    clear_contextvars()


# For the connection that sends from a request; a worker's own waits for messages for as long as it takes.
_SENDING = {
    "socket_timeout": broker.TIMEOUT_SECONDS,
    "socket_connect_timeout": broker.TIMEOUT_SECONDS,
    "retry_on_timeout": False,
    "max_retries": 0,
}


def send(task: str, key: int | str, *, queue: str, **options: Any) -> None:
    """Send the task with the key of what it is about, now. Raises redis.RedisError or kombu's OperationalError."""
    with broker.asked(), app.connection_for_write(transport_options=_SENDING) as connection:
        app.send_task(task, args=[key], queue=queue, retry=False, connection=connection, **options)


def enqueue(task: str, pk: int, *, queue: str = "default") -> None:
    """Send the task with a primary key once the current transaction has committed.

    A broker that is down loses nothing: the row stays QUEUED and the next tick sends it again.
    """

    def sent() -> None:
        try:
            send(task, pk, queue=queue)
        except BrokerSilent:
            logger.warning("the broker is silent; tick will send %s(%s)", task, pk)
        except Exception:
            logger.exception("could not reach the broker to send %s(%s); tick will send it again", task, pk)

    transaction.on_commit(sent)
