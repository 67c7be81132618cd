"""What a row of any format becomes: neutral records of prompts, responses, pairs, votes and levels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from webapp.corpus.conversations import Message

# Far more than a project offers, or than people judge one pair.
MAX_REASONS = 100
MAX_VOTES = 1000


class PromptRecord(NamedTuple):
    id: str
    messages: list[Message]
    group: str
    tools: Sequence[Any] = ()


class ResponseRecord(NamedTuple):
    id: str
    prompt: str
    text: str
    author: str
    metadata: dict[str, Any]
    # None: the text is all there is.
    messages: list[Message] | None = None


class PairRecord(NamedTuple):
    """Two responses side by side; a vote on responses that names no pair makes one without an id."""

    id: str
    a: str
    b: str


class VoteRecord(NamedTuple):
    """One annotator's verdict on a pair: named by `pair`, or by its responses `a` and `b`. Times are ISO in UTC."""

    pair: str
    a: str
    b: str
    annotator: str
    verdict: str
    strength: int | None = None
    comment: str = ""
    reasons: Sequence[str] = ()
    left: str = ""
    created_at: str = ""
    shown_at: str = ""
    policy: str = ""
    propensity: float | None = None
    contradiction_kept: bool = False


class LevelRecord(NamedTuple):
    response: str
    annotator: str
    level: str
    comment: str = ""
    created_at: str = ""


Record = PromptRecord | ResponseRecord | PairRecord | VoteRecord | LevelRecord
