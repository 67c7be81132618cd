"""What the API answers, as dictionaries with types.

Made from its schemas by `python -m tests.client.made_types`. Times are ISO 8601 in UTC.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict


class Levels(TypedDict):
    """How many people gave each level."""

    bad: int
    normal: int
    good: int


class Me(TypedDict):
    id: int
    username: str
    name: str
    is_staff: bool
    projects: list[Roles]
    token: Token


class Pair(TypedDict):
    id: int
    external_id: str
    prompt: int
    response_a: int
    response_b: int
    wanted: int
    judged: int
    reserved: int
    votes: Votes
    created_at: str


class PairWhole(TypedDict):
    id: int
    external_id: str
    prompt: int
    response_a: int
    response_b: int
    wanted: int
    judged: int
    reserved: int
    votes: Votes
    created_at: str
    a: Response
    b: Response


class Project(TypedDict):
    """A project as each of its members may see it."""

    id: int
    slug: str
    name: str
    description: str
    asks: Literal["both", "pairs", "levels"]
    overlap: int
    roles: list[Literal["annotator", "researcher", "admin"]]
    archived_at: str | None
    created_at: str


class ProjectSettings(TypedDict):
    """What an admin sets. Training options that are null keep the trainer's default."""

    name: str
    description: str
    guidelines: str
    asks: Literal["both", "pairs", "levels"]
    overlap: int
    reservation_minutes: int
    reason_tags: list[str]
    load_images: bool
    bad_to: int
    normal_to: int
    pairing: Literal["all", "ring", "random"]
    pairing_limit: int
    base_model: str
    causal_base_model: str
    tuning: str
    machine_labels: bool
    retrain_after_labels: int
    retrain_every_hours: int
    min_judgements: int
    gate_max_drop: float
    methods: list[str]
    main_method: str
    reliability: bool | None
    votes: str | None
    hardening: float | None
    patience: int | None
    preset: str | None


class ProjectWhole(TypedDict):
    id: int
    slug: str
    name: str
    description: str
    asks: Literal["both", "pairs", "levels"]
    overlap: int
    roles: list[Literal["annotator", "researcher", "admin"]]
    archived_at: str | None
    created_at: str
    guidelines: str
    reason_tags: list[str]
    settings: ProjectSettings | None


class Prompt(TypedDict):
    id: int
    external_id: str
    messages: list[dict[str, Any]]
    tools: list[Any]
    group: str
    created_at: str


class Response(TypedDict):
    id: int
    external_id: str
    prompt: int
    text: str
    messages: list[dict[str, Any]] | None
    author: str
    metadata: dict[str, Any]
    levels: Levels
    wanted: int
    labelled: int
    created_at: str


class Roles(TypedDict):
    slug: str
    roles: list[Literal["annotator", "researcher", "admin"]]


class Token(TypedDict):
    name: str
    prefix: str
    scopes: list[str]
    project: str | None
    expires_at: str | None


class Votes(TypedDict):
    """How many people judged so; skips aren't counted."""

    a: int
    b: int
    tie: int
    both_bad: int
