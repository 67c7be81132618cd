"""Which of the scored rollouts people are asked about: pure functions of what was scored, without HTTP or a model.

A `Window` collects the rollouts that one version scored in some seconds. Its candidates are the pairs of two rollouts
of one prompt with different texts. `close` picks three kinds of them: at random (what the proxy is held against),
the most uncertain, and those whose length or style moved most away from what people have judged so far.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models.preference import Floats, ordinal_p_preferred, scalar_p_preferred

Ints = NDArray[np.int64]

READ = 20_000
"""Characters of a text that style is read from, so that a huge one takes no longer."""

MOST_ROLLOUTS, MOST_CHARACTERS, MOST_OF_A_PROMPT = 5_000, 32_000_000, 64
"""What a window keeps. Further rollouts are counted and not kept."""

LEAST_SD = 0.1
"""Where everything judged is alike, a feature has no spread to divide by."""

HEADERS = re.compile(r"^#{1,6}[ \t]", re.MULTILINE)
LIST_ITEMS = re.compile(r"^[ \t]*(?:[-*\u2022]|[0-9]+[.)])[ \t]", re.MULTILINE)


def features(text: str) -> dict[str, float]:
    """Length and style of a text as eight numbers: log(1 + n) of counts, and the share of words that repeat.

    The web half computes the same of the judged responses (webapp/rollouts), and a test holds both together.
    """
    head = text[:READ]
    words = head.lower().split()
    counts = {
        "length": len(text),
        "headers": len(HEADERS.findall(head)),
        "list_items": len(LIST_ITEMS.findall(head)),
        "bold": head.count("**") // 2,
        "code": head.count("`"),
        "exclamations": head.count("!"),
        "questions": head.count("?"),
    }
    repetition = 1 - len(set(words)) / len(words) if words else 0.0
    return {name: math.log1p(count) for name, count in counts.items()} | {"repetition": repetition}


def distance(text: str, reference: Mapping[str, Any] | None) -> float:
    """How far a text's length or style lies from the reference: the largest |z| of its features; 0 without one.

    `reference`: {"length": {"mean", "sd"}, "style": {feature: {"mean", "sd"}}} of the judged responses' features.
    """
    if not reference:
        return 0.0
    known = {"length": reference["length"], **reference["style"]}
    found = features(text)
    return max(
        abs(found[name] - known[name]["mean"]) / max(known[name]["sd"], LEAST_SD)
        for name in found
        if name in known
    )


@dataclass(frozen=True)
class Rollout:
    """One scored response of a prompt: `row` has score, expected, spread and p as `predictions` gives them."""

    prompt: int
    text: str
    row: Mapping[str, Any]

    def told(self) -> dict[str, Any]:
        return {"text": self.text} | {name: self.row[name] for name in ("score", "expected", "spread", "p")}


def preferred(version: Mapping[str, Any], a: Sequence[Rollout], b: Sequence[Rollout]) -> Floats:
    """P(a preferred) of pairs [N], by the version's own calibration (its reward_config.json)."""
    if version["kind"] == "ordinal":
        return ordinal_p_preferred([one.row["p"] for one in a], [one.row["p"] for one in b])
    difference = [one.row["score"] - other.row["score"] for one, other in zip(a, b, strict=True)]
    return scalar_p_preferred(difference, tie=version.get("tie"), temperature=version["temperature"])


def uncertainty(p: Floats, spread_a: Floats, spread_b: Floats) -> Floats:
    """How uncertain a preference is: 1 at P = 1/2, 0 where it is sure, times the spread of the difference. [N]"""
    result: Floats = (1 - np.abs(2 * p - 1)) * np.hypot(spread_a, spread_b)
    return result


class Window:
    """The rollouts that one version scored from one time to another. `add` may be called by several threads.

    `settings`: {"sample": pairs to pick at most, "reference", and optionally "shares": {"uncertain", "moved",
    "random"}, a third each unless told}. `version`: reward_config.json's object.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        version: Mapping[str, Any],
        *,
        server: str,
        seed: int | None = None,
        now: datetime | None = None,
    ) -> None:
        self._settings, self._version, self._server = settings, version, server
        self._random = random.Random(seed)
        self._since = now or datetime.now(UTC)
        self._lock = threading.Lock()
        self._prompts: dict[bytes, int] = {}
        self._messages: list[Sequence[Mapping[str, Any]]] = []
        self._of_prompt: list[dict[str, Rollout]] = []
        self._kept = self._characters = 0
        self._rewards, self._lengths = _Running(), _Running()

    @property
    def full(self) -> bool:
        """Whether it keeps no more rollouts, but only counts them."""
        return self._kept >= MOST_ROLLOUTS or self._characters >= MOST_CHARACTERS

    def add(self, messages: Sequence[Mapping[str, Any]], text: str, row: Mapping[str, Any]) -> None:
        """Note a scored rollout. A score that is not a number (a diverged model) is passed over."""
        if not math.isfinite(row["score"]):
            return
        digest = hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).digest()
        sendable = _can_be_sent(messages, text)
        with self._lock:
            self._rewards.add(row["score"])
            self._lengths.add(len(text))
            if not sendable:
                return
            place = self._prompts.get(digest)
            if self.full or (place is not None and len(self._of_prompt[place]) >= MOST_OF_A_PROMPT):
                return
            if place is None:
                place = self._prompts[digest] = len(self._messages)
                self._messages.append(messages)
                self._of_prompt.append({})
                self._characters += sum(len(str(message.get("content", ""))) for message in messages)
            if text not in self._of_prompt[place]:
                self._of_prompt[place][text] = Rollout(place, text, row)
                self._kept += 1
                self._characters += len(text)

    def close(self, now: datetime | None = None) -> dict[str, Any] | None:
        """The report that Caliper takes at POST /rollouts; None if nothing was scored."""
        with self._lock:
            if not self._rewards.count:
                return None
            rollouts, first, second = self._candidates()
            picked = self._picked(rollouts, first, second)
            return {
                "server": self._server,
                "version": self._version["digest"],
                "window": {
                    "from": self._since.isoformat(),
                    "to": (now or datetime.now(UTC)).isoformat(),
                },
                "seen": self._rewards.count,
                "prompts": len(self._prompts),
                "candidates": len(first),
                "rewards": {"count": self._rewards.count, **self._rewards.told()},
                "length": self._lengths.told(),
                "pairs": picked,
            }

    def _candidates(self) -> tuple[list[Rollout], Ints, Ints]:
        """The kept rollouts, and the candidate pairs as positions in them. [K], [K]"""
        rollouts: list[Rollout] = []
        firsts, seconds = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for texts in self._of_prompt:
            a, b = np.triu_indices(len(texts), 1)
            firsts.append(a + len(rollouts))
            seconds.append(b + len(rollouts))
            rollouts += texts.values()
        return rollouts, np.concatenate(firsts), np.concatenate(seconds)

    def _picked(self, rollouts: list[Rollout], first: Ints, second: Ints) -> list[dict[str, Any]]:
        """The pairs to ask about, in random order: a limit that takes the first ones takes at random."""
        if not len(first):
            return []
        reference = self._settings.get("reference")
        counts = shares(self._settings, moved=bool(reference))
        drawn = self._random.sample(range(len(first)), min(counts["random"], len(first)))
        p = self._preferred(rollouts, first, second)
        spread = np.array([1.0 if one.row["spread"] is None else one.row["spread"] for one in rollouts])
        values = {"uncertain": uncertainty(p, spread[first], spread[second])}
        if reference:
            moved = np.array([distance(one.text, reference) for one in rollouts])
            values["moved"] = np.maximum(moved[first], moved[second])
        chosen = {pair: ("random", len(drawn) / len(first)) for pair in drawn}
        for why, value in values.items():
            for pair in self._best(value, counts[why], first, second, chosen):
                chosen[pair] = (why, 1.0)
        order = list(chosen)
        self._random.shuffle(order)
        return [self._pair(rollouts[first[n]], rollouts[second[n]], float(p[n]), *chosen[n]) for n in order]

    def _preferred(self, rollouts: list[Rollout], first: Ints, second: Ints) -> Floats:
        parts = [
            preferred(
                self._version,
                [rollouts[n] for n in first[begin : begin + 10_000]],
                [rollouts[n] for n in second[begin : begin + 10_000]],
            )
            for begin in range(0, len(first), 10_000)
        ]
        return np.concatenate(parts)

    def _best(
        self, value: Floats, count: int, first: Ints, second: Ints, chosen: Mapping[int, Any]
    ) -> list[int]:
        """The `count` pairs of the largest value that are not chosen yet, ties in random order.

        A rollout comes a second time only where nothing else is left.
        """
        chance = np.array([self._random.random() for _ in value])
        order = [int(n) for n in np.lexsort((chance, -value)) if int(n) not in chosen]
        used = {int(row[n]) for n in chosen for row in (first, second)}
        best: list[int] = []
        again: list[int] = []
        for n in order:
            if len(best) == count:
                break
            ends = {int(first[n]), int(second[n])}
            if ends & used:
                again.append(n)
            else:
                best.append(n)
                used |= ends
        return best + again[: count - len(best)]

    def _pair(self, a: Rollout, b: Rollout, p: float, why: str, propensity: float) -> dict[str, Any]:
        if self._random.random() < 0.5:
            a, b, p = b, a, 1 - p
        return {
            "messages": list(self._messages[a.prompt]),
            "a": a.told(),
            "b": b.told(),
            "why": why,
            "propensity": propensity,
            "preferred": p,
        }


def _can_be_sent(messages: Sequence[Mapping[str, Any]], text: str) -> bool:
    """Whether Caliper's API takes these texts: one with a NUL or half a surrogate pair has a whole report refused."""
    try:
        return b"\\u0000" not in json.dumps([messages, text], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False


def shares(settings: Mapping[str, Any], *, moved: bool) -> dict[str, int]:
    """How many pairs of each kind a report has. What rounding leaves, and "moved" without a reference, is random."""
    told = settings.get("shares") or {"uncertain": 1 / 3, "moved": 1 / 3, "random": 1 / 3}
    total = sum(told.values())
    counts = {why: int(settings["sample"] * told[why] / total + 1e-9) for why in ("uncertain", "moved")}
    if not moved:
        counts["moved"] = 0
    return counts | {"random": settings["sample"] - sum(counts.values())}


class _Running:
    """Count, mean and standard deviation of numbers that come one by one (Welford 1962)."""

    def __init__(self) -> None:
        self.count, self._mean, self._squares = 0, 0.0, 0.0

    def add(self, value: float) -> None:
        self.count += 1
        gap = value - self._mean
        self._mean += gap / self.count
        self._squares += gap * (value - self._mean)

    def told(self) -> dict[str, float]:
        return {"mean": self._mean, "sd": math.sqrt(self._squares / self.count)}
