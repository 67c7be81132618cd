"""What happens is told to those who listen. It is called in the transaction of the act: both are stored or neither."""

from typing import Any

from webapp.corpus.models import Project
from webapp.events.models import Event


def event_record(project: Project, kind: str, data: dict[str, Any]) -> None:
    """A delivery for each webhook of the project that listens to this kind; no query where the project has none.

    `data` has ids and plain values, never a text that is judged: whoever wants it asks the API.
    """
    events_record(project, (kind, data))


def events_record(project: Project, *events: Event) -> None:
    """The same for several events of one act, by one INSERT a webhook."""
    if project.has_webhooks:
        project.webhooks.record(*events)
