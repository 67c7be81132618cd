"""What Caliper tells others, and what others tell it: webhooks, and rollouts scored elsewhere."""

from collections.abc import Iterator, Mapping
from typing import Any

from caliper import types
from caliper.transport import Group


class Webhooks(Group):
    def list(self) -> Iterator[types.Webhook]:
        return self._pages("/projects/{slug}/webhooks")

    def get(self, id: int) -> types.Webhook:
        return self._send("GET", "/projects/{slug}/webhooks/{id}", id=id)

    def create(self, **fields: Any) -> types.Webhook:
        return self._send("POST", "/projects/{slug}/webhooks", json=fields)

    def update(self, id: int, **fields: Any) -> types.Webhook:
        return self._send("PATCH", "/projects/{slug}/webhooks/{id}", id=id, json=fields)

    def delete(self, id: int) -> None:
        self._send("DELETE", "/projects/{slug}/webhooks/{id}", id=id)

    def deliveries(self, id: int) -> Iterator[types.Delivery]:
        """What was sent, and what the other side answered."""
        return self._pages("/projects/{slug}/webhooks/{id}/deliveries", id=id)

    def redeliver(self, id: int, delivery: int) -> types.Delivery:
        route = "/projects/{slug}/webhooks/{id}/deliveries/{delivery}/redeliver"
        return self._send("POST", route, id=id, delivery=delivery)


class Rollouts(Group):
    def report(self, report: Mapping[str, Any]) -> types.Taken:
        """Send what a reward server has scored, with the pairs that people are to judge."""
        return self._send("POST", "/projects/{slug}/rollouts", json=dict(report))
