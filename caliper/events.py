"""What Caliper tells others, and what others tell it: webhooks, and rollouts scored elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from caliper import types
from caliper.transport import Group


class Webhooks(Group):
    def list(self) -> Iterator[types.Webhook]:
        return self._pages("/projects/{slug}/webhooks")

    def get(self, id: int) -> types.Webhook:
        return self._send("GET", "/projects/{slug}/webhooks/{id}", id=id)

    def create(self, url: str, kinds: Sequence[str]) -> types.WebhookWithSecret:
        """From now on `url` is told of these kinds of events. The answer has the secret, this once."""
        body = {"url": url, "kinds": list(kinds)}
        return self._send("POST", "/projects/{slug}/webhooks", json=body)

    def update(self, id: int, **fields: Any) -> types.Webhook:
        """Change `url` or `kinds`; pause it with active=False."""
        return self._send("PATCH", "/projects/{slug}/webhooks/{id}", id=id, json=fields)

    def delete(self, id: int) -> None:
        self._send("DELETE", "/projects/{slug}/webhooks/{id}", id=id)

    def rotate(self, id: int) -> types.WebhookWithSecret:
        """A new secret. For a day messages are signed by the former one as well."""
        return self._send("POST", "/projects/{slug}/webhooks/{id}/secret", id=id)

    def ping(self, id: int) -> types.Delivery:
        """Send a test message. Its delivery tells how it went."""
        return self._send("POST", "/projects/{slug}/webhooks/{id}/ping", id=id)

    def deliveries(self, id: int) -> Iterator[types.Delivery]:
        """What was sent, and what the other side answered."""
        return self._pages("/projects/{slug}/webhooks/{id}/deliveries", id=id)

    def redeliver(self, id: int, delivery: int) -> types.Delivery:
        route = "/projects/{slug}/webhooks/{id}/deliveries/{delivery}/redeliver"
        return self._send("POST", route, id=id, delivery=delivery)


class Rollouts(Group):
    def windows(self) -> Iterator[types.Window]:
        """What reward servers have reported, the newest first."""
        return self._pages("/projects/{slug}/rollouts")

    def pairs(self, why: str | None = None) -> Iterator[types.RolloutPair]:
        """The pairs that people are asked about. `why`: random, uncertain or moved."""
        return self._pages("/projects/{slug}/rollouts/pairs", {"why": why})

    def report(self, report: Mapping[str, Any]) -> types.Taken:
        """Send what a reward server has scored, with the pairs that people are to judge."""
        return self._send("POST", "/projects/{slug}/rollouts", json=dict(report))
