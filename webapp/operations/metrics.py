"""GET /metrics, for Prometheus: what django-prometheus measured of requests, and figures asked for at each scrape.

The web processes of one machine add up: gunicorn's settings (webapp.gunicorn_settings) give them a folder for that.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterable

from django.apps import apps
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.db.models import Count, Max, Min, Q
from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest, multiprocess
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from webapp import heartbeat
from webapp.broker import redis_client
from webapp.events.models import Delivery, Webhook
from webapp.health import OPTIONAL_QUEUES, QUEUES
from webapp.jobs import Job, State
from webapp.labels.models import Judgement

logger = logging.getLogger(__name__)

Found = Iterable[Metric]


def queues() -> Found:
    waiting = GaugeMetricFamily("caliper_queue_messages", "Messages that wait in a queue.", labels=["queue"])
    with redis_client() as client:
        for queue in QUEUES + OPTIONAL_QUEUES:
            waiting.add_metric([queue], client.llen(queue))
    yield waiting


def workers() -> Found:
    """What Celery workers write down (webapp.heartbeat)."""
    seen = GaugeMetricFamily(
        "caliper_worker_last_seen_timestamp_seconds", "A worker's last sign of life.", labels=["worker"]
    )
    ended = CounterMetricFamily(
        "caliper_tasks", "Celery tasks that ended; a job that failed in order is not a failed task.",
        labels=["task", "outcome"],
    )  # fmt: skip
    spent = CounterMetricFamily("caliper_task_seconds", "Time that Celery tasks took.", labels=["task"])
    with redis_client() as client:
        signs: dict[str, str] = client.hgetall(heartbeat.KEY)  # type: ignore[assignment]
        counted: dict[str, str] = client.hgetall(heartbeat.TASKS_KEY)  # type: ignore[assignment]
    for name, text in signs.items():
        seen.add_metric([name], json.loads(text)["at"])
    for field, number in counted.items():
        task, _, what = field.partition("|")
        if what == heartbeat.SECONDS:
            spent.add_metric([task], float(number))
        else:
            ended.add_metric([task, what], float(number))
    yield from (seen, ended, spent)


def jobs() -> Found:
    states = GaugeMetricFamily("caliper_jobs", "Jobs by kind and state.", labels=["kind", "state"])
    oldest = GaugeMetricFamily(
        "caliper_oldest_queued_job_seconds", "How long the oldest queued job waits; 0 without one.", labels=["kind"]
    )  # fmt: skip
    now = timezone.now()
    for model in apps.get_models():
        if not issubclass(model, Job):
            continue
        kind = str(model._meta.model_name)
        counts = dict.fromkeys(State.values, 0)
        rows = model._default_manager.order_by().values_list("state").annotate(Count("pk"), Min("queued_at"))
        waits = 0.0
        for state, count, queued_at in rows:
            counts[state] = count
            if state == State.QUEUED:
                waits = (now - queued_at).total_seconds()
        for state, count in counts.items():
            states.add_metric([kind, state], count)
        oldest.add_metric([kind], waits)
    yield from (states, oldest)


def judgements() -> Found:
    # Counting ten million rows takes seconds; the newest key takes none.
    newest = Judgement.objects.aggregate(newest=Max("pk"))["newest"] or 0
    told = "Judgements so far, by the newest one's number: those that were taken back count."
    yield CounterMetricFamily("caliper_judgements", told, value=newest)


def webhooks() -> Found:
    waiting = GaugeMetricFamily(
        "caliper_webhook_deliveries_queued", "Deliveries of active webhooks on their way."
    )
    waiting.add_metric([], Delivery.objects.filter(state=Delivery.State.QUEUED, webhook__active=True).count())
    failing = GaugeMetricFamily(
        "caliper_webhooks_failing", "Webhooks that fail, or were switched off for it."
    )
    failing.add_metric([], Webhook.objects.filter(~Q(disabled_reason="") | ~Q(failing_since=None)).count())
    yield from (waiting, failing)


PARTS: tuple[Callable[[], Found], ...] = (queues, workers, jobs, judgements, webhooks)


class Figures(Collector):
    """The figures of this scrape. A part that can't be asked is missing, and counted as down."""

    def collect(self) -> Found:
        down = GaugeMetricFamily(
            "caliper_scrape_part_down", "1: this part could not be asked.", labels=["part"]
        )
        for part in PARTS:
            try:
                yield from list(part())
                down.add_metric([part.__name__], 0)
            except Exception:
                logger.exception("metrics: %s can't be asked", part.__name__)
                down.add_metric([part.__name__], 1)
        took = GaugeMetricFamily(
            "caliper_scrape_timestamp_seconds", "When this was asked.", value=time.time()
        )
        yield from (down, took)


@never_cache
@login_not_required
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Prometheus' text format, for whoever has the token; without CALIPER_METRICS_TOKEN there is no such page."""
    if not settings.METRICS_TOKEN:
        raise Http404("There are no metrics here.")
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not constant_time_compare(token, settings.METRICS_TOKEN):
        return HttpResponse(
            "Send Authorization: Bearer with CALIPER_METRICS_TOKEN.\n",
            status=401,
            content_type="text/plain",
            headers={"WWW-Authenticate": "Bearer"},
        )
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        multiprocess.MultiProcessCollector(registry)
    else:
        registry.register(REGISTRY)
    registry.register(Figures())
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
