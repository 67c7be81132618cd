"""What the API keeps of its own: the answers to writes that somebody may send again."""

from django.conf import settings
from django.db import models
from django.utils import timezone


class IdempotentCall(models.Model):
    """One write that came with an Idempotency-Key, and what was answered. Written in the write's own transaction."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    key = models.CharField(max_length=200)
    # sha256 of method, address and body.
    digest = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField(default=0)
    content_type = models.CharField(max_length=100, blank=True)
    body = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "key"], name="idempotent_call_once")]
        indexes = [models.Index(fields=["created_at"])]
