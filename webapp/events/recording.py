"""What happens is told to those who listen. It is called in the transaction of the act: both are stored or neither."""

from typing import Any

from webapp.corpus.models import Project


def event_record(project: Project, kind: str, data: dict[str, Any]) -> None:
    """A delivery for each webhook of the project that listens to this kind; no query where the project has none.

    `data` has ids and plain values, never a text that is judged: whoever wants it asks the API.
    """
    if project.has_webhooks:
        project.webhooks.record(kind, data)
