"""The audit log: one row for each act that somebody may be asked about later.

`audit` is called inside the act's own transaction: either both are stored or neither.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.http import HttpRequest

from webapp.accounts.addresses import client_address
from webapp.accounts.models import User
from webapp.corpus.models import AuditEntry, Project

Action = AuditEntry.Action

ITSELF = "Caliper"
"""Whoever acts where nobody clicked: the triggers and the gate."""

COMMAND = "manage.py"

# A longer text is told by its digest and length.
_LONGEST_TEXT = 200

_address: ContextVar[str | None] = ContextVar("address", default=None)


@contextmanager
def request_address(request: HttpRequest) -> Iterator[None]:
    """While a request is answered, its address goes into the entries."""
    address = client_address(request)
    token = _address.set(str(address) if address else None)
    try:
        yield
    finally:
        _address.reset(token)


def audit(
    *, project: Project | None, actor: User | str | None, action: str, detail: dict[str, Any] | None = None
) -> AuditEntry:
    """Add an entry. `detail` is JSON of ids, names and settings; never a secret, a token or a judged text.

    `actor` is a person, the name of a command, or None where Caliper acts by itself.
    """
    return AuditEntry.objects.create(
        project=project,
        actor=actor if isinstance(actor, User) else None,
        actor_name=actor.username if isinstance(actor, User) else actor or ITSELF,
        action=Action(action),
        detail=detail or {},
        address=_address.get(),
    )


def told(value: Any) -> Any:
    """A value as an entry tells it: a long text by its digest and length."""
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        return {"sha256": hashlib.sha256(value.encode()).hexdigest(), "length": len(value)}
    return value


def changes(before: Any, after: Any, names: Iterable[str]) -> dict[str, Any]:
    """Which fields of a row change, each with its value before and after."""
    found = {name: (getattr(before, name), getattr(after, name)) for name in names}
    return {name: {"from": told(old), "to": told(new)} for name, (old, new) in found.items() if old != new}


def json_lines(entries: Any) -> Iterator[str]:
    """Entries as JSON, one a line, read a few at a time."""
    for entry in entries.select_related("project").iterator(chunk_size=1000):
        row = {
            "id": entry.pk,
            "at": entry.created_at.isoformat(),
            "project": entry.project.slug if entry.project else None,
            "actor": entry.actor_name,
            "actor_id": entry.actor_id,
            "action": entry.action,
            "detail": entry.detail,
            "address": entry.address,
        }
        yield json.dumps(row, ensure_ascii=False) + "\n"
