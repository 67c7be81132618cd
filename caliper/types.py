"""What the API answers, as dictionaries with types.

Made from its schemas by `python -m tests.client.made_types`. Times are ISO 8601 in UTC.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict


class Asks(TypedDict):
    """What the card may be answered with. `levels_needed`: a verdict without them is refused."""

    verdicts: list[Literal["left", "right", "tie", "both_bad", "skip"]]
    strengths: list[int]
    levels: list[Literal["bad", "normal", "good"]]
    levels_needed: bool
    reasons: list[str]


class Card(TypedDict):
    """What an export holds. `left_out`: labels that have no place in the format; `changed`: rows
    that are in it, but not as they are stored; both by reason, with the same in words."""

    format: str
    description: str
    again: str
    columns: dict[str, str]
    rows: int
    left_out: dict[str, int]
    left_out_words: list[str]
    changed: dict[str, int]
    changed_words: list[str]
    labels: str


class CardShown(TypedDict):
    """A pair (`left` and `right`), or a single response (`response`), reserved for whoever asked
    for it."""

    key: str
    kind: Literal["pair", "response"]
    state: Literal["open", "done", "expired"]
    reserved_until: str
    revision: int
    shown_at: str
    prompt: PromptShown | None
    left: SideShown | None
    right: SideShown | None
    response: SideShown | None
    asks: Asks
    said: Said | None


class Cards(TypedDict):
    """Cards, the oldest first, and how far one is. `nothing` says why there is no card: empty, done
    or busy."""

    cards: list[CardShown]
    judged: int
    skipped: int
    open: int
    nothing: Literal["empty", "done", "busy"] | None


class Delivery(TypedDict):
    id: int
    event_id: str
    kind: str
    payload: dict[str, Any]
    state: str
    attempts: int
    next_at: str
    last_status: int | None
    last_error: str
    created_at: str
    delivered_at: str | None


class ExportJob(TypedDict):
    """`waiting`: why it does not begin."""

    id: int
    state: Literal["queued", "running", "done", "failed", "cancelled", "lost"]
    step: int
    total: int
    error: str
    format: str
    file_type: str
    aggregation: str
    superseded: bool
    safe_for_spreadsheets: bool
    version: str
    created_by: str | None
    created_at: str
    finished_at: str | None
    rows: int | None
    left_out: list[str]
    changed: list[str]
    snapshot: str | None
    files: list[str]
    archive: str | None
    waiting: str


class ExportRow(TypedDict):
    """A data set that a worker makes. `files` and `archive` can be downloaded once it is done."""

    id: int
    state: Literal["queued", "running", "done", "failed", "cancelled", "lost"]
    step: int
    total: int
    error: str
    format: str
    file_type: str
    aggregation: str
    superseded: bool
    safe_for_spreadsheets: bool
    version: str
    created_by: str | None
    created_at: str
    finished_at: str | None
    rows: int | None
    left_out: list[str]
    changed: list[str]
    snapshot: str | None
    files: list[str]
    archive: str | None


class FileShown(TypedDict):
    name: str
    size: int
    sha256: str


class FormatShown(TypedDict):
    """`columns`: what each of them holds. `aggregates`: whether the votes of a pair may be
    gathered."""

    name: str
    label: str
    help: str
    file_types: list[str]
    aggregates: bool
    columns: dict[str, str]
    versions: list[str]


class ImportRow(TypedDict):
    """An import. With `dry_run` it is a preview: nothing is written before it is confirmed. `asks`:
    the files are in no known format, and somebody has to say which column is what (see mapping)."""

    id: int
    state: Literal["queued", "running", "done", "failed", "cancelled", "lost"]
    dry_run: bool
    asks: bool
    phase: str
    step: int
    total: int
    error: str
    file_name: str
    origin: dict[str, Any]
    format: str
    created_by: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    undone_at: str | None


class ImportWhole(TypedDict):
    """`report`: what was found, new, left out and why. `preview`: the first items as they will be
    stored. `waiting`: why it does not begin."""

    id: int
    state: Literal["queued", "running", "done", "failed", "cancelled", "lost"]
    dry_run: bool
    asks: bool
    phase: str
    step: int
    total: int
    error: str
    file_name: str
    origin: dict[str, Any]
    format: str
    created_by: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    undone_at: str | None
    waiting: str
    report: dict[str, Any]
    preview: list[dict[str, Any]]


class JudgementRow(TypedDict):
    """A verdict on a pair, in terms of its responses a and b. `left` says which of them stood left.
    `annotator`, `external_id`, `policy` and `propensity` are null for annotators, who see their own
    judgements."""

    id: int
    pair: int
    external_id: str | None
    card: str | None
    annotator: Person | None
    verdict: str
    strength: int | None
    reasons: list[Any]
    contradiction_kept: bool
    comment: str
    levels: list[LevelGiven]
    left: str
    policy: str | None
    propensity: float | None
    source: str
    shown_at: str | None
    created_at: str
    is_current: bool
    retraction: bool


class Left(TypedDict):
    field: str
    message: str
    remedy: str


class LevelGiven(TypedDict):
    response: int
    level: str


class LevelRow(TypedDict):
    """A level of a response; `judgement` is the one that it was given with, if any."""

    id: int
    response: int
    external_id: str | None
    level: str
    card: str | None
    judgement: int | None
    annotator: Person | None
    comment: str
    source: str
    shown_at: str | None
    created_at: str
    is_current: bool
    retraction: bool


class Levels(TypedDict):
    """How many people gave each level."""

    bad: int
    normal: int
    good: int


class LevelsSaid(TypedDict):
    """The levels of the two responses of a pair."""

    left: Literal["bad", "normal", "good"] | None
    right: Literal["bad", "normal", "good"] | None


class MappingShown(TypedDict):
    """The columns as they were found, a mapping to begin with, and the words that may be said.
    `values`: the values of its winner columns, by key; null where there are too many to ask
    about."""

    columns: dict[str, dict[str, Any]]
    rows: int
    mapping: dict[str, Any]
    values: dict[str, str] | None
    roles: dict[str, str]
    meanings: dict[str, str]


class Me(TypedDict):
    id: int
    username: str
    name: str
    is_staff: bool
    projects: list[Roles]
    token: Token


class MeasurementRow(TypedDict):
    """A version on a set. `overall`: the value with its interval and count; `length`: of preferring
    the longer one."""

    id: int
    version: int
    version_name: str
    state: Literal["queued", "running", "done", "failed", "cancelled", "lost"]
    percent: int | None
    error: str
    overall: dict[str, Any]
    near_duplicates: int | None
    result: dict[str, Any]
    created_at: str
    finished_at: str | None


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


class People(TypedDict):
    """How many people gave each level."""

    bad: int
    normal: int
    good: int


class Person(TypedDict):
    id: int
    name: str
    kind: str


class Point(TypedDict):
    step: int
    value: float


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


class PromptShown(TypedDict):
    """A conversation, and the tools that the assistant was offered."""

    messages: list[dict[str, Any]]
    tools: list[Any]


class RatedRow(TypedDict):
    id: int
    response: int
    external_id: str
    score: float
    expected: float | None
    spread: float | None
    p: list[float] | None
    votes: list[int] | None
    percentile: float
    split: Literal["train", "held_out", "crossfit", "unlabelled"]
    split_words: str
    truncated: bool
    people: People


class ReasonsSaid(TypedDict):
    """Tags of the project, for each side."""

    left: list[str]
    right: list[str]


class Receipt(TypedDict):
    """What became of an answer. `kept` False: nothing was stored, and `message` says why."""

    kept: bool
    saved_at: str
    message: str
    judgement: int | None
    level: int | None


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


class ResponseRatings(TypedDict):
    """What the serving versions predict of one response, and what people said of it."""

    response: int
    external_id: str
    people: People
    predictions: list[VersionRating]


class Roles(TypedDict):
    slug: str
    roles: list[Literal["annotator", "researcher", "admin"]]


class RolloutPair(TypedDict):
    """A pair of rollouts, and what people say of it so far. Its texts are those of the pair."""

    id: int
    pair: int
    window: int
    version: str
    why: Literal["uncertain", "moved", "random", "later"]
    propensity: float
    preferred: float
    score_a: float
    score_b: float
    judgements: int
    share: float | None
    created_at: str


class RunProgress(TypedDict):
    """How far a run is. `losses`: of the training; `validation`: of early stopping's looks;
    `rewards` and `kls`: of reinforcement. `left_seconds`: of the phase."""

    state: Literal["queued", "running", "done", "failed", "cancelled", "lost"]
    phase: str
    step: int
    total: int
    percent: int | None
    loss: float | None
    left_seconds: float | None
    waiting: str
    error: str
    losses: list[Point]
    validation: list[Point]
    rewards: list[Point]
    kls: list[Point]


class RunRow(TypedDict):
    """A training of one method. `percent` is of all phases; `version` is what it made, “same_as”
    the run that had made the same before."""

    id: int
    method: Literal["bt", "clf", "oprm", "rgft", "haf", "grm", "judge"]
    state: Literal["queued", "running", "done", "failed", "cancelled", "lost"]
    trigger: str
    created_by: str | None
    created_at: str
    queued_at: str
    started_at: str | None
    finished_at: str | None
    phase: str
    step: int
    total: int
    percent: int | None
    loss: float | None
    tokens_per_second: float | None
    cancel_requested: bool
    error: str
    labels_seen: int
    snapshot: int | None
    same_as: int | None
    version: int | None


class RunWhole(TypedDict):
    """`position`: its place in the queue while it waits, from 1; `waiting`: why it does not
    move."""

    id: int
    method: Literal["bt", "clf", "oprm", "rgft", "haf", "grm", "judge"]
    state: Literal["queued", "running", "done", "failed", "cancelled", "lost"]
    trigger: str
    created_by: str | None
    created_at: str
    queued_at: str
    started_at: str | None
    finished_at: str | None
    phase: str
    step: int
    total: int
    percent: int | None
    loss: float | None
    tokens_per_second: float | None
    cancel_requested: bool
    error: str
    labels_seen: int
    snapshot: int | None
    same_as: int | None
    version: int | None
    config: dict[str, Any]
    metrics: dict[str, Any]
    live: dict[str, Any]
    tracking_url: str
    waiting: str
    position: int | None


class Said(TypedDict):
    """What was answered on a card before."""

    verdict: Literal["left", "right", "tie", "both_bad", "skip"] | None
    strength: int | None
    levels: LevelsSaid
    level: Literal["bad", "normal", "good"] | None
    reasons: ReasonsSaid
    comment: str


class Serving(TypedDict):
    """`folder`: where its files lie below the data folder, for a server that shares it. `ask_back`:
    how scored rollouts are sampled for people; null: not at all."""

    version: ServingVersion
    folder: str
    files: list[FileShown]
    ask_back: dict[str, Any] | None


class ServingVersion(TypedDict):
    id: int
    name: str
    method: str
    number: int
    kind: str
    digest: str
    promoted_at: str | None


class SetRow(TypedDict):
    """`state` is of its reading; once it is done, `format`, `items` (prompts) and `subsets` say
    what was found. `refused`: rows that can't be read."""

    id: int
    name: str
    state: Literal["queued", "running", "done", "failed", "cancelled", "lost"]
    error: str
    format: str
    files: list[str]
    digest: str
    items: int
    responses: int
    subsets: dict[str, int]
    people_tied: int
    refused: int
    created_by: str | None
    created_at: str


class SetWhole(TypedDict):
    """`refusals`: the first rows that can't be read, and why. `waiting`: why its reading does not
    begin."""

    id: int
    name: str
    state: Literal["queued", "running", "done", "failed", "cancelled", "lost"]
    error: str
    format: str
    files: list[str]
    digest: str
    items: int
    responses: int
    subsets: dict[str, int]
    people_tied: int
    refused: int
    created_by: str | None
    created_at: str
    waiting: str
    refusals: list[Any]


class SideShown(TypedDict):
    """A response. `messages`: its turns, where it has several or tool calls; `prompt`: its own
    where two differ."""

    text: str
    messages: list[dict[str, Any]] | None
    prompt: PromptShown | None


class SnapshotRow(TypedDict):
    """A frozen copy of the labels; equal digests mean equal labels. `counts`: prompts, responses,
    judgements, levels, annotators."""

    id: int
    digest: str
    counts: dict[str, int]
    created_at: str


class SnapshotWhole(TypedDict):
    """`manifest` is null where its files are gone from the disk."""

    id: int
    digest: str
    counts: dict[str, int]
    created_at: str
    manifest: dict[str, Any] | None
    runs: list[int]


class Taken(TypedDict):
    """How many pairs are asked from now on, were here already, or were more than the hour's cap
    lets in."""

    taken: int
    duplicates: int
    over_cap: int
    left_out: list[Left]


class Token(TypedDict):
    name: str
    prefix: str
    scopes: list[str]
    project: str | None
    expires_at: str | None


class Undone(TypedDict):
    """The card that is open again; null if there was nothing to take back."""

    card: CardShown | None


class VersionRating(TypedDict):
    id: int
    response: int
    external_id: str
    score: float
    expected: float | None
    spread: float | None
    p: list[float] | None
    votes: list[int] | None
    percentile: float
    split: Literal["train", "held_out", "crossfit", "unlabelled"]
    split_words: str
    truncated: bool
    version: int
    version_name: str


class VersionRow(TypedDict):
    """What a finished run made. `name` is “oprm-3”; `there`: its files are on the disk.
    `gate_passed`: whether it may serve by itself; null before the gate has spoken."""

    id: int
    name: str
    method: Literal["bt", "clf", "oprm", "rgft", "haf", "grm", "judge"]
    number: int
    kind: Literal["scalar", "ordinal"]
    digest: str
    run: int
    there: bool
    is_serving: bool
    promoted_at: str | None
    gate_passed: bool | None
    gate_reason: str
    created_at: str
    packed_at: str | None


class VersionWhole(TypedDict):
    """`metrics`: metrics.json, without what it says of single people. `base_model_name`: what a
    training that goes on from it names as its base model."""

    id: int
    name: str
    method: Literal["bt", "clf", "oprm", "rgft", "haf", "grm", "judge"]
    number: int
    kind: Literal["scalar", "ordinal"]
    digest: str
    run: int
    there: bool
    is_serving: bool
    promoted_at: str | None
    gate_passed: bool | None
    gate_reason: str
    created_at: str
    packed_at: str | None
    metrics: dict[str, Any]
    tie: float | None
    temperature: float
    base_model_name: str


class Votes(TypedDict):
    """How many people judged so; skips aren't counted."""

    a: int
    b: int
    tie: int
    both_bad: int


class Webhook(TypedDict):
    id: int
    url: str
    kinds: list[str]
    active: bool
    failing_since: str | None
    disabled_reason: str
    created_at: str


class WebhookWithSecret(TypedDict):
    id: int
    url: str
    kinds: list[str]
    active: bool
    failing_since: str | None
    disabled_reason: str
    created_at: str
    secret: str


class Window(TypedDict):
    """A window that a server has reported. `version` is its name, as in “oprm-3”."""

    id: int
    server: str
    version: str
    since: str
    until: str
    seen: int
    prompts: int
    candidates: int
    reward_mean: float
    reward_sd: float
    length_mean: float
    length_sd: float
    taken: int
    duplicates: int
    over_cap: int
    left_out: int
    reported_at: str
