"""Webhooks, for a project's admins: addresses that are told what happens, and what they were told."""

from datetime import datetime
from typing import Any
from uuid import UUID

from django.shortcuts import get_object_or_404
from ninja import Field, Schema, Status

from webapp.api.auth import ApiRequest, token
from webapp.api.paging import LIMIT, Cursor, Limit, Page, paged
from webapp.api.problems import Problem
from webapp.api.routers import ProjectRouter
from webapp.api.schemas import Given
from webapp.corpus.access import project_for
from webapp.events import services
from webapp.events.models import Kind, Webhook

router = ProjectRouter(tags=["webhooks"])

KINDS = f"What it is told: {', '.join(Kind.values)}."


class WebhookNew(Given):
    url: str = Field(description="https://HOST/PATH on the public Internet; at most 500 characters.")
    kinds: list[str] = Field(max_length=20, description=KINDS)


class WebhookChange(Given):
    """What is left out stays as it is."""

    url: str | None = None
    kinds: list[str] | None = Field(None, max_length=20, description=KINDS)
    active: bool | None = Field(
        None, description="false pauses it; true sends what waited, and forgets failures."
    )


class WebhookOut(Schema):
    id: int
    url: str
    kinds: list[str] = Field(description=KINDS)
    active: bool
    failing_since: datetime | None = Field(
        description="When the failures began that nothing has ended since."
    )
    disabled_reason: str = Field(description="Why Caliper switched it off; empty where a person did.")
    created_at: datetime


class WebhookWithSecret(WebhookOut):
    secret: str = Field(description="whsec_…: what messages are signed with. It is told this once.")


class DeliveryOut(Schema):
    id: int
    event_id: UUID = Field(
        description="The header webhook-id: the same for every attempt and for all webhooks of the project."
    )
    kind: str
    payload: dict[str, Any] = Field(description="The message: {type, timestamp, data}.")
    state: str = Field(description="queued, delivered or failed.")
    attempts: int
    next_at: datetime = Field(description="Of a queued one: when it is sent at the earliest.")
    last_status: int | None = Field(description="The HTTP status of the last answer; null: there was none.")
    last_error: str
    created_at: datetime
    delivered_at: datetime | None


def _webhook(request: ApiRequest, slug: str, pk: int) -> Webhook:
    project = project_for(request, slug, "admin")
    found: Webhook = get_object_or_404(project.webhooks.select_related("project"), pk=pk)
    return found


@router.get("webhooks", auth=token("read"), response=Page[WebhookOut], summary="Webhooks, oldest first")
def webhooks(request: ApiRequest, slug: str, limit: Limit = LIMIT, cursor: Cursor = None) -> dict[str, Any]:
    project = project_for(request, slug, "admin")
    return paged(project.webhooks.all(), cursor, limit, oldest_first=True)


@router.post("webhooks", auth=token("write"), response={201: WebhookWithSecret}, summary="Add a webhook")
def webhook_add(request: ApiRequest, slug: str, body: WebhookNew) -> Status[Webhook]:
    """The answer has the secret, this once."""
    project = project_for(request, slug, "admin")
    added = services.webhook_add(project=project, url=body.url, kinds=body.kinds, actor=request.user)
    return Status(201, added)


@router.get("webhooks/{key:pk}", auth=token("read"), response=WebhookOut, summary="One webhook")
def webhook(request: ApiRequest, slug: str, pk: int) -> Webhook:
    return _webhook(request, slug, pk)


@router.patch(
    "webhooks/{key:pk}", auth=token("write"), response=WebhookOut, summary="Change or pause a webhook"
)
def webhook_change(request: ApiRequest, slug: str, pk: int, body: WebhookChange) -> Webhook:
    found = _webhook(request, slug, pk)
    services.webhook_change(webhook=found, actor=request.user, **body.dict())
    return _webhook(request, slug, pk)


@router.delete("webhooks/{key:pk}", auth=token("write"), response={204: None}, summary="Remove a webhook")
def webhook_remove(request: ApiRequest, slug: str, pk: int) -> Status[None]:
    """Its log goes with it, and what waits is not sent."""
    services.webhook_remove(webhook=_webhook(request, slug, pk), actor=request.user)
    return Status(204, None)


@router.post(
    "webhooks/{key:pk}/secret", auth=token("write"), response=WebhookWithSecret, summary="Make a new secret"
)
def webhook_rotate(request: ApiRequest, slug: str, pk: int) -> Webhook:
    """For a day messages are signed by the former secret as well."""
    found = _webhook(request, slug, pk)
    services.webhook_rotate(webhook=found, actor=request.user)
    return _webhook(request, slug, pk)


@router.post(
    "webhooks/{key:pk}/ping", auth=token("write"), response={201: DeliveryOut}, summary="Send a test"
)
def webhook_ping(request: ApiRequest, slug: str, pk: int) -> Status[Any]:
    """A message of the kind ping. Its line among the deliveries tells how it went."""
    return Status(201, services.webhook_ping(webhook=_webhook(request, slug, pk)))


@router.get(
    "webhooks/{key:pk}/deliveries",
    auth=token("read"),
    response=Page[DeliveryOut],
    summary="What it was told, newest first",
)
def deliveries(
    request: ApiRequest, slug: str, pk: int, limit: Limit = LIMIT, cursor: Cursor = None
) -> dict[str, Any]:
    return paged(_webhook(request, slug, pk).deliveries.all(), cursor, limit)


@router.post(
    "webhooks/{key:pk}/deliveries/{key:delivery}/redeliver",
    auth=token("write"),
    response=DeliveryOut,
    summary="Send a delivery again",
)
def redeliver(request: ApiRequest, slug: str, pk: int, delivery: int) -> Any:
    """Under the same id, by which the receiver knows it. 409 while it is on its way."""
    found = _webhook(request, slug, pk)
    row = get_object_or_404(found.deliveries.select_related("webhook__project"), pk=delivery)
    if not services.delivery_again(delivery=row):
        raise Problem(409, "On its way", "This delivery is queued already. Look at it again in a while.")
    row.refresh_from_db()
    return row
