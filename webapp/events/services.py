"""Writes to webhooks: adding, changing, removing, and sending something again."""

import base64
import secrets
import uuid
from collections.abc import Collection
from datetime import timedelta

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from webapp.accounts.models import User
from webapp.corpus.access import check_not_archived
from webapp.corpus.audit import Action, audit
from webapp.corpus.models import Project
from webapp.events.addresses import AddressRefused, check_url
from webapp.events.models import PING, Delivery, Kind, Webhook

MOST = 20
"""Webhooks of a project."""

FORMER_SECRET_SIGNS = timedelta(hours=24)
KEPT = timedelta(days=30)
SWEPT_AT_ONCE = 2000


class WebhookRefused(ValueError):
    """A webhook that can't be as it was asked for: `field` is what is wrong; the message says what to do."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def _secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def _checked(url: str, kinds: Collection[str]) -> list[str]:
    try:
        check_url(url)
    except AddressRefused as refusal:
        raise WebhookRefused("url", str(refusal)) from None
    unknown = [kind for kind in kinds if kind not in Kind.values]
    if unknown or not kinds:
        message = f"“{unknown[0]}” is unknown. There are" if unknown else "Choose at least one of"
        raise WebhookRefused("kinds", f"{message} {', '.join(Kind.values)}.")
    return [kind for kind in Kind.values if kind in kinds]


def _locked(project: Project) -> None:
    """One writer of a project's webhooks at a time, so that `has_webhooks` is theirs."""
    Project.objects.select_for_update(no_key=True).get(pk=project.pk)


def _flag(project: Project) -> None:
    """`has_webhooks` is true while an active one exists."""
    project.has_webhooks = Webhook.objects.filter(project=project, active=True).exists()
    Project.objects.filter(pk=project.pk).update(has_webhooks=project.has_webhooks)


def _audit(webhook: Webhook, action: Action, actor: User | None, **detail: object) -> None:
    # Addresses may hold a secret in their path or query: the host says enough.
    told = {"webhook": webhook.pk, "host": check_url(webhook.url).netloc, **detail}
    audit(project=webhook.project, actor=actor, action=action, detail=told)


@transaction.atomic
def webhook_add(*, project: Project, url: str, kinds: Collection[str], actor: User) -> Webhook:
    """A new webhook; its `secret` is to be shown now and never again. Raises WebhookRefused, ProjectArchived."""
    check_not_archived(project)
    kinds = _checked(url, kinds)
    _locked(project)
    if Webhook.objects.filter(project=project).count() >= MOST:
        raise WebhookRefused("url", f"A project has at most {MOST} webhooks: remove one first.")
    webhook = Webhook.objects.create(
        project=project, url=url, kinds=kinds, secret=_secret(), created_by=actor
    )
    _flag(project)
    _audit(webhook, Action.WEBHOOK_ADDED, actor, kinds=kinds)
    return webhook


@transaction.atomic
def webhook_change(
    *,
    webhook: Webhook,
    actor: User,
    url: str | None = None,
    kinds: Collection[str] | None = None,
    active: bool | None = None,
) -> bool:
    """Another address, other kinds, paused or on again; what is None stays. False: it is so already, or gone.

    A webhook that goes on is tried afresh: its failures so far are forgotten, and what waited is sent.
    """
    if active is not False or url is not None or kinds is not None:
        check_not_archived(webhook.project)
    _locked(webhook.project)
    if (now := Webhook.objects.filter(pk=webhook.pk).first()) is None:
        return False
    wanted = {
        "url": now.url if url is None else url,
        "kinds": _checked(now.url if url is None else url, now.kinds if kinds is None else kinds),
        "active": now.active if active is None else active,
    }
    changes: dict[str, object] = {
        name: value for name, value in wanted.items() if value != getattr(now, name)
    }
    if not changes:
        return False
    if active or "url" in changes:
        changes |= {"failing_since": None, "held_until": None}
    if active:
        changes["disabled_reason"] = ""
    for name, value in changes.items():
        setattr(webhook, name, value)
    webhook.save(update_fields=list(changes))
    _flag(webhook.project)
    _audit(webhook, Action.WEBHOOK_CHANGED, actor, kinds=wanted["kinds"], active=wanted["active"])
    webhook.enqueue()
    return True


@transaction.atomic
def webhook_switch_off(*, webhook: Webhook, why: str) -> bool:
    """Nobody listens there: no more is sent until a person switches it on. False: it was off."""
    _locked(webhook.project)
    switched = Webhook.objects.filter(pk=webhook.pk, active=True).update(
        active=False, disabled_reason=why[:300]
    )
    if switched:
        _flag(webhook.project)
        _audit(webhook, Action.WEBHOOK_CHANGED, None, active=False, why=why)
    return switched == 1


@transaction.atomic
def webhook_rotate(*, webhook: Webhook, actor: User) -> str:
    """A new secret, to be shown now and never again. For a day the former one signs as well."""
    check_not_archived(webhook.project)
    secret, until = _secret(), timezone.now() + FORMER_SECRET_SIGNS
    Webhook.objects.filter(pk=webhook.pk).update(former_secret=F("secret"), former_until=until, secret=secret)
    _audit(webhook, Action.WEBHOOK_CHANGED, actor, rotated="secret")
    return secret


@transaction.atomic
def webhook_remove(*, webhook: Webhook, actor: User) -> bool:
    """The webhook and its log go. False: it was gone."""
    project = webhook.project
    _locked(project)
    if not Webhook.objects.filter(pk=webhook.pk).exists():
        return False
    _audit(webhook, Action.WEBHOOK_REMOVED, actor)
    webhook.delete()
    _flag(project)
    return True


def webhook_ping(*, webhook: Webhook) -> Delivery:
    """A delivery that says nothing but that it arrives."""
    check_not_archived(webhook.project)
    ping = webhook.delivery(PING, {"webhook": webhook.pk}, event_id=uuid.uuid4(), at=timezone.now())
    with transaction.atomic():
        ping.save()
        webhook.enqueue()
    return ping


@transaction.atomic
def delivery_again(*, delivery: Delivery) -> bool:
    """DELIVERED | FAILED -> QUEUED, with its attempts counted anew. False: it is on its way already."""
    check_not_archived(delivery.webhook.project)
    again = Delivery.objects.filter(pk=delivery.pk).exclude(state=Delivery.State.QUEUED)
    queued = again.update(state=Delivery.State.QUEUED, attempts=0, next_at=timezone.now(), delivered_at=None)
    if queued:
        # Whoever presses the button has mended the receiver.
        Webhook.objects.filter(pk=delivery.webhook_id).update(held_until=None)
        delivery.webhook.enqueue()
    return queued == 1


def deliveries_sweep() -> int:
    """Remove deliveries older than KEPT; returns how many."""
    swept = 0
    old = Delivery.objects.filter(created_at__lt=timezone.now() - KEPT).order_by("created_at")
    # A few at a time: nobody who saves waits for all of them.
    while pks := list(old.values_list("pk", flat=True)[:SWEPT_AT_ONCE]):
        swept += Delivery.objects.filter(pk__in=pks).delete()[0]
    return swept
