"""Push: a job that carries a data set or a model to a hub id or a store's address. What is common to both."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q

from webapp.corpus.models import Project
from webapp.jobs import ACTIVE, Job


@dataclass(frozen=True)
class Part:
    """A file to carry: its path there, and how it is opened here, as a binary file that can be read again."""

    path: str
    size: int
    open: Callable[[], Any]


class Push(Job):
    """Abstract. The kinds add `export`, what is pushed, and where its files are."""

    # As a hub calls it: "dataset" or "model".
    kind: ClassVar[str]
    export: Any

    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    address = models.CharField(max_length=500)
    # Whether everybody may read it on the hub; stores have rules of their own.
    public = models.BooleanField(default=False)
    # {url, commit, private, files, bytes}: see snapshots.pushing.
    report = models.JSONField(default=dict, blank=True)

    class Meta:
        abstract = True
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["export", "address"], condition=Q(state__in=ACTIVE), name="%(class)s_active_once"
            )
        ]

    @property
    def project(self) -> Project:
        raise NotImplementedError

    @property
    def title(self) -> str:
        """What is pushed, in a line: for the page, and the commit's message."""
        raise NotImplementedError

    @property
    def facts(self) -> dict[str, Any]:
        """What its files were made of: ids and digests, for the audit log and the mark that is pushed along."""
        raise NotImplementedError

    def parts(self) -> AbstractContextManager[list[Part]]:
        """Its files, which can be opened inside. Raises JobFailed where they are gone."""
        raise NotImplementedError

    @property
    def is_hub(self) -> bool:
        return self.address.startswith("hf://")

    @property
    def link(self) -> str:
        """Where a browser finds what was pushed; empty where it doesn't."""
        url = self.report.get("url", "")
        return url if url.startswith(("https://", "http://")) else ""

    @property
    def open_to(self) -> str:
        """Who may read it on the hub, in a word: as it turned out, else as it was asked for."""
        private = self.report.get("private", not self.public)
        return "" if not self.is_hub else "private" if private else "public"
