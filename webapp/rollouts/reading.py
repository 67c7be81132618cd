"""A server's report as plain data becomes a `Report`, or is refused with each field, what is wrong and the remedy."""

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings

from webapp.corpus.conversations import Message
from webapp.corpus.models import messages_digest, text_digest
from webapp.importing.fields import (
    MAX_ID,
    RowError,
    check_text,
    choice_of,
    id_of,
    number_from,
    time_of,
)
from webapp.importing.shapes.messages import messages_of
from webapp.importing.sources import json_type
from webapp.rollouts.models import RolloutPair

WHYS = (RolloutPair.Why.UNCERTAIN, RolloutPair.Why.MOVED, RolloutPair.Why.RANDOM)
"""Why a server picks a pair."""

MOST_PAIRS = 200
MOST_COUNTED = 2**53
FARTHEST = 1e12
"""A reward beyond this is a diverged model's."""

_RATINGS = 9


class ReportRefused(Exception):
    """The report can't be taken, and nothing of it was. `errors`: {field, message, remedy} each."""

    def __init__(self, *errors: RowError) -> None:
        super().__init__(" ".join(str(error) for error in errors))
        self.errors = [told(error) for error in errors]


def told(error: RowError) -> dict[str, str]:
    return {"field": error.field, "message": error.message, "remedy": error.remedy}


@dataclass(frozen=True)
class Scored:
    """One rollout of a pair, as it was scored."""

    text: str
    digest: str
    score: float
    expected: float | None
    spread: float | None
    p: list[float] | None


@dataclass(frozen=True)
class Proposed:
    """A pair that a server would have people asked about."""

    messages: list[Message]
    prompt: str
    a: Scored
    b: Scored
    why: str
    propensity: float
    preferred: float

    @property
    def texts(self) -> tuple[str, str, str]:
        """What two pairs are the same by: the prompt's digest and both texts', in whichever order."""
        first, second = sorted((self.a.digest, self.b.digest))
        return self.prompt, first, second


@dataclass(frozen=True)
class Report:
    """A report of one window. `left_out`: pairs whose texts nobody can judge, and why."""

    server: str
    digest: str
    since: datetime
    until: datetime
    counts: dict[str, Any]
    pairs: list[Proposed]
    left_out: list[dict[str, str]]


def report_read(data: Any) -> Report:
    """Check a report of POST /rollouts (docs/rollouts.md has its fields). Raises ReportRefused."""
    errors: list[RowError] = []
    left_out: list[dict[str, str]] = []
    pairs: list[Proposed] = []
    try:
        head = _head(_object("report", data))
        rows = data.get("pairs")
        if not isinstance(rows, list):
            raise RowError("pairs", f"is {json_type(rows)}.", "Write a list of pairs; it may be empty.")
        if len(rows) > MOST_PAIRS:
            raise RowError("pairs", f"has {len(rows):,} pairs, of {MOST_PAIRS} allowed.", "Send fewer.")
    except RowError as error:
        raise ReportRefused(error) from None
    for place, row in enumerate(rows):
        name = f"pairs[{place}]"
        try:
            pair = _pair(name, _object(name, row))
        except _Unjudgeable as error:
            left_out.append(told(error))
        except RowError as error:
            errors.append(error)
        else:
            pairs.append(pair)
    if errors:
        raise ReportRefused(*errors[:20])
    return Report(**head, pairs=pairs, left_out=left_out)


class _Unjudgeable(RowError):
    """A text that no person can judge: its pair is left out, and the others are taken."""


def _head(data: dict[str, Any]) -> dict[str, Any]:
    window = _object("window", data.get("window"))
    rewards, length = _object("rewards", data.get("rewards")), _object("length", data.get("length"))
    since, until = (_time(f"window.{end}", window.get(end)) for end in ("from", "to"))
    if until < since:
        raise RowError("window.to", "lies before window.from.", "Write the later time second.")
    seen = _whole("seen", data.get("seen"))
    if not seen:
        raise RowError("seen", "is 0.", "Report windows in which something was scored.")
    counts = {name: _whole(name, data.get(name)) for name in ("prompts", "candidates")}
    if counts["prompts"] > seen:
        raise RowError("prompts", "are more than were seen.", "Count each prompt once.")
    numbers = {
        "reward_mean": _number("rewards.mean", rewards.get("mean"), -FARTHEST, FARTHEST),
        "reward_sd": _number("rewards.sd", rewards.get("sd"), 0, FARTHEST),
        "length_mean": _number("length.mean", length.get("mean"), 0, FARTHEST),
        "length_sd": _number("length.sd", length.get("sd"), 0, FARTHEST),
    }
    return {
        "server": id_of(data, "server"),
        "digest": id_of(data, "version"),
        "since": since,
        "until": until,
        "counts": {"seen": seen, **counts, **numbers},
    }


def _pair(name: str, row: dict[str, Any]) -> Proposed:
    a, b = (_scored(f"{name}.{side}", _object(f"{name}.{side}", row.get(side))) for side in "ab")
    try:
        why = choice_of(row, "why", [each.value for each in WHYS])
    except RowError as error:
        raise RowError(f"{name}.why", error.message, error.remedy) from None
    propensity = _number(f"{name}.propensity", row.get("propensity"), 0, 1)
    if propensity == 0:
        raise RowError(f"{name}.propensity", "is 0.", "What was picked had a chance: write it.")
    preferred = _number(f"{name}.preferred", row.get("preferred"), 0, 1)
    messages = _judgeable(lambda: messages_of(f"{name}.messages", row.get("messages")))
    if a.digest == b.digest:
        raise RowError(f"{name}.b.text", "is the same text as a.text.", "A pair needs two different texts.")
    return Proposed(messages, messages_digest(messages), a, b, why, propensity, preferred)


def _scored(name: str, row: dict[str, Any]) -> Scored:
    if not isinstance(row.get("text"), str):
        raise RowError(f"{name}.text", f"is {json_type(row.get('text'))}.", "Write the rollout's text.")
    text = _judgeable(lambda: check_text(f"{name}.text", row["text"], limit=settings.MAX_TEXT_BYTES))
    p = row.get("p")
    if p is not None:
        if not isinstance(p, list) or len(p) != _RATINGS:
            raise RowError(f"{name}.p", f"is no list of {_RATINGS} numbers.", "Write p(1) to p(9), or null.")
        p = [_number(f"{name}.p[{place}]", value, 0, 1) for place, value in enumerate(p)]
        if abs(math.fsum(p) - 1) > 1e-3:
            raise RowError(f"{name}.p", f"adds up to {math.fsum(p):.4g}.", "Write probabilities of sum 1.")
    return Scored(
        text=text,
        digest=text_digest(text),
        score=_number(f"{name}.score", row.get("score"), -FARTHEST, FARTHEST),
        expected=_optional(f"{name}.expected", row.get("expected"), 1, _RATINGS),
        spread=_optional(f"{name}.spread", row.get("spread"), 0, FARTHEST),
        p=p,
    )


def _judgeable(read: Any) -> Any:
    try:
        return read()
    except RowError as error:
        raise _Unjudgeable(error.field, error.message, error.remedy) from None


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RowError(name, f"is {json_type(value)}.", "Write an object: {…}.")
    return value


def _number(name: str, value: Any, low: float, high: float) -> float:
    """A number of JSON: texts that look like one are refused, and so is what is not finite."""
    if isinstance(value, str):
        raise RowError(name, "is text.", "Write a number.")
    number = number_from(name, value, low, high)
    if number is None:
        raise RowError(name, "is missing.", f"Write a number from {low:g} to {high:g}.")
    return float(number)


def _optional(name: str, value: Any, low: float, high: float) -> float | None:
    return None if value is None else _number(name, value, low, high)


def _whole(name: str, value: Any) -> int:
    number = _number(name, value, 0, MOST_COUNTED)
    if number != int(number):
        raise RowError(name, f"is {number:g}.", "Write a whole number.")
    return int(number)


def _time(name: str, value: Any) -> datetime:
    if not isinstance(value, str) or len(value) > MAX_ID:
        raise RowError(name, f"is {json_type(value)}.", "Write an ISO time such as 2026-01-31T12:00:00Z.")
    text = time_of({name: value}, name)
    if not text:
        raise RowError(name, "is empty.", "Write an ISO time such as 2026-01-31T12:00:00Z.")
    return datetime.fromisoformat(text)
