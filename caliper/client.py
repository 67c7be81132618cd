"""`Client`: one person's token at one Caliper, and what it reaches."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import httpx

from caliper import types
from caliper.data import Exports, Imports, Snapshots
from caliper.events import Rollouts, Webhooks
from caliper.labels import Cards, Judgements, Levels, Pairs, Prompts, Responses
from caliper.models import EvaluationSets, Runs, Serving, Versions
from caliper.transport import Group, Transport


class Client:
    """The API of the Caliper at `url`, as the person whose token this is.

    `token` is made on the page Account -> API tokens. Every call raises CaliperError when it is refused.

        with Client("https://caliper.example.org", "cal_...") as client:
            for project in client.projects.list():
                print(project["slug"])
            capitals = client.project("capitals")
            run = capitals.runs.start("bt")
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout: float = 60.0,
        http: httpx.BaseTransport | None = None,
    ) -> None:
        self.transport = Transport(url, token, timeout=timeout, http=http)
        self.projects = Projects(self.transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.transport.close()

    def me(self) -> types.Me:
        """Whose token this is, what it may do, and the roles in each project."""
        return Group(self.transport)._send("GET", "/me")

    def project(self, slug: str) -> Project:
        """What one project holds. Asks the server nothing by itself."""
        return Project(self.transport, slug)


class Projects(Group):
    def list(self) -> Iterator[types.Project]:
        """The projects that this person belongs to."""
        return self._pages("/projects")

    def get(self, slug: str) -> types.ProjectWhole:
        return self._send("GET", "/projects/{slug}", slug=slug)

    def create(self, **settings: Any) -> types.ProjectWhole:
        """A new project (staff only). `slug` and `name` are needed; the rest are settings as `update` takes them."""
        return self._send("POST", "/projects", json=settings)

    def update(self, slug: str, **settings: Any) -> types.ProjectWhole:
        """Change the settings that are named; admins only."""
        return self._send("PATCH", "/projects/{slug}", slug=slug, json=settings)

    def archive(self, slug: str) -> types.ProjectWhole:
        """From now on nothing in it changes; it can be read and exported."""
        return self._send("POST", "/projects/{slug}/archive", slug=slug)

    def unarchive(self, slug: str) -> types.ProjectWhole:
        return self._send("POST", "/projects/{slug}/unarchive", slug=slug)


class Project:
    """One project: its data, its labels and its models."""

    def __init__(self, transport: Transport, slug: str) -> None:
        self.slug = slug
        self.prompts = Prompts(transport, slug=slug)
        self.responses = Responses(transport, slug=slug)
        self.pairs = Pairs(transport, slug=slug)
        self.cards = Cards(transport, slug=slug)
        self.judgements = Judgements(transport, slug=slug)
        self.levels = Levels(transport, slug=slug)
        self.imports = Imports(transport, slug=slug)
        self.snapshots = Snapshots(transport, slug=slug)
        self.exports = Exports(transport, slug=slug)
        self.runs = Runs(transport, slug=slug)
        self.versions = Versions(transport, slug=slug)
        self.serving = Serving(transport, slug=slug)
        self.evaluation_sets = EvaluationSets(transport, slug=slug)
        self.webhooks = Webhooks(transport, slug=slug)
        self.rollouts = Rollouts(transport, slug=slug)
