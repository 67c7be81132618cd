"""Webhook: an address that is told of what happens in a project. Delivery: one thing that one of them is told.

    QUEUED --answered 2xx--> DELIVERED
       |----7 failures-----> FAILED
       `<---sent again by hand---- both

A worker claims a queued delivery by a conditional UPDATE that moves `next_at` beyond the longest attempt and counts the
attempt; what it stores afterwards asks for the same count. A worker that dies leaves a row that is due again then.
"""

import uuid
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from webapp.celery import enqueue
from webapp.corpus.models import Project

URL_LENGTH = 500
TASK = "workers.tasks.webhook_send"


class Kind(models.TextChoices):
    """What happens. The words on the right stand on the page."""

    JUDGEMENT_CREATED = "judgement.created", "a judgement is given"
    JUDGEMENT_TAKEN_BACK = "judgement.taken_back", "a judgement or a level is taken back"
    LEVEL_CREATED = "level.created", "a quality level is given"
    IMPORT_FINISHED = "import.finished", "an import or its preview ends, well or not"
    RUN_FINISHED = "run.finished", "a training ends, well or not"
    VERSION_PUBLISHED = "version.published", "a training makes a version"
    VERSION_PROMOTED = "version.promoted", "a version begins to serve"


# Nobody who judges waits for the broker: these are sent when beat looks next, every few seconds.
OF_JUDGING = {Kind.JUDGEMENT_CREATED, Kind.JUDGEMENT_TAKEN_BACK, Kind.LEVEL_CREATED}

PING = "ping"

Event = tuple[str, dict[str, Any]]
"""A kind, and ids and plain values."""


class WebhookQuerySet(models.QuerySet["Webhook"]):
    def due(self) -> "WebhookQuerySet":
        """Those that have something to be sent now."""
        now = timezone.now()
        waiting = Delivery.objects.due().filter(webhook=models.OuterRef("pk"))
        return self.ready().filter(models.Exists(waiting), Q(held_until=None) | Q(held_until__lte=now))

    def ready(self) -> "WebhookQuerySet":
        """Active, and not held since it didn't answer."""
        return self.filter(Q(held_until=None) | Q(held_until__lte=timezone.now()), active=True)

    def record(self, *events: Event) -> None:
        """A delivery of each event for each of these that listens to its kind."""
        now = timezone.now()
        drawn = [(uuid.uuid4(), kind, data) for kind, data in events]
        for hook in self.filter(active=True).select_related("project"):
            made = [
                hook.delivery(kind, data, event_id=event_id, at=now)
                for event_id, kind, data in drawn
                if kind in hook.kinds
            ]
            Delivery.objects.bulk_create(made)
            if any(each.kind not in OF_JUDGING for each in made):
                hook.enqueue()


class Webhook(models.Model):
    """An address outside, told by POST and signed as https://www.standardwebhooks.com says."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="webhooks")
    url = models.CharField(max_length=URL_LENGTH)
    # "whsec_" and base64. Kept as it is, since every delivery is signed with it; shown once.
    secret = models.CharField(max_length=80)
    # The one before a change: signs as well until then, so that the receiver can change at leisure.
    former_secret = models.CharField(max_length=80, blank=True)
    former_until = models.DateTimeField(null=True, blank=True)
    kinds = models.JSONField(default=list)
    active = models.BooleanField(default=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    # When the failures began that no delivery has ended since.
    failing_since = models.DateTimeField(null=True, blank=True)
    # It didn't answer: nothing is sent to it before then, so that it doesn't keep a worker waiting each time.
    held_until = models.DateTimeField(null=True, blank=True)
    # Why Caliper switched it off; empty where a person did.
    disabled_reason = models.CharField(max_length=300, blank=True)

    objects = WebhookQuerySet.as_manager()

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return self.url

    @property
    def secrets(self) -> list[str]:
        """What a delivery is signed with now."""
        former = self.former_until is not None and self.former_until > timezone.now()
        return [self.secret, self.former_secret] if former else [self.secret]

    def delivery(self, kind: str, data: dict[str, Any], *, event_id: uuid.UUID, at: datetime) -> "Delivery":
        """A delivery to this webhook, not yet stored. `data`: ids and plain values."""
        told = {"project": self.project.slug, **data}
        payload = {"type": kind, "timestamp": at.isoformat(), "data": told}
        return Delivery(webhook=self, kind=kind, event_id=event_id, payload=payload)

    def enqueue(self) -> None:
        """Have what is due sent, once the current transaction has committed. Beat does the same every few seconds."""
        enqueue(TASK, self.pk)


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    def due(self) -> "DeliveryQuerySet":
        return self.filter(state=Delivery.State.QUEUED, next_at__lte=timezone.now())


class Delivery(models.Model):
    """One event for one webhook: what it is told, and how that went."""

    class State(models.TextChoices):
        QUEUED = "queued", "queued"
        DELIVERED = "delivered", "delivered"
        FAILED = "failed", "failed"

    webhook = models.ForeignKey(Webhook, on_delete=models.CASCADE, related_name="deliveries")
    kind = models.CharField(max_length=40)
    # The same for all webhooks of a project, and for every attempt: by it a receiver knows a repetition.
    event_id = models.UUIDField(default=uuid.uuid4, editable=False)
    payload = models.JSONField()
    state = models.CharField(max_length=10, choices=State.choices, default=State.QUEUED)
    attempts = models.PositiveSmallIntegerField(default=0)
    # Queued: not before then. In a worker's hands: when it must have given up.
    next_at = models.DateTimeField(default=timezone.now)
    last_status = models.PositiveSmallIntegerField(null=True, blank=True)
    last_error = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    delivered_at = models.DateTimeField(null=True, blank=True)

    objects = DeliveryQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        indexes = [
            models.Index(fields=["webhook", "next_at"], condition=Q(state="queued"), name="delivery_queued"),
            models.Index(fields=["created_at"], name="delivery_created"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.event_id}"
