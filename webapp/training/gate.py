"""The gate: may a new version serve without anybody's click? (docs/methods.md)

Every figure is one of metrics.json. A part that an older trainer did not write is passed as unknown, and the reason
says so.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from webapp.corpus.options import GENERATIVE
from webapp.words import counted

if TYPE_CHECKING:
    from webapp.training.models import ModelVersion

PAIRS = (("held_out", "pairs", "accuracy"), "held-out pair accuracy", 1 / 2)
# Levels stand in where no pair was held out. They are held against always guessing the level that is most common.
LEVELS = (("held_out", "levels", "accuracy"), "held-out level accuracy", 1 / 3)

# Of the pairs that a version is measured on, how many it may not tell apart.
MOST_ALIKE = 0.05
# Standard deviation of scores (ratings, or logits of a scalar reward) below which they are one and the same.
LEAST_SPREAD = 0.01


class Word(NamedTuple):
    """The gate's word, and why. `mark`: what it falls short of although it may serve, for an amber badge."""

    passed: bool
    reason: str
    mark: str = ""


class Difference(NamedTuple):
    """Accuracy of the new version minus the serving one's on the same n judgements, with its 95 % interval."""

    value: float
    low: float | None
    high: float | None
    n: int


def dig(metrics: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any] | None:
    """{"value", "low", "high", "n"} under a path of metrics.json; None if it is absent or its value not finite."""
    found: Any = metrics
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    if isinstance(found, (int, float)):
        found = {"value": found}
    if not isinstance(found, dict) or not isinstance(value := found.get("value"), (int, float)):
        return None
    return found if math.isfinite(value) else None


def gate_check(
    metrics: dict[str, Any],
    *,
    serving: ModelVersion | None,
    max_drop: float,
    same_rows: Difference | None = None,
) -> Word:
    """Whether a version with these metrics is let serve by itself, and why, in a sentence or two.

    1. `refusal`: what never serves by itself.
    2. `shortfall`: what must be shown of a version: better than one half, and not below “the longer one wins”. Only
       where nothing of the method serves that does better may it serve without, with an amber mark.
    3. It must not be clearly worse than the version that serves, on the same rows where those are known.
    """
    if reason := refusal(metrics):
        return Word(False, reason)
    mark, words = shortfall(metrics)
    if serving is None:
        return Word(True, f"First version: {words}{_not_known(metrics)}", mark)
    weak = bool(refusal(serving.metrics)) or bool(shortfall(serving.metrics)[0])
    if mark and not weak:
        return Word(False, f"{words[0].upper()}{words[1:]}")
    good, compared = _against(metrics, serving, max_drop, same_rows)
    if not good:
        return Word(False, compared)
    return Word(True, f"{compared} {words[0].upper()}{words[1:]}{_not_known(metrics)}", mark)


def refusal(metrics: dict[str, Any]) -> str:
    """Why the version must not serve by itself, be it the first: blind, collapsed, worse than guessing, not trained."""
    if reason := _cannot_tell_apart(metrics):
        return reason
    spread = metrics.get("spread")
    if (found := dig(metrics, ("spread",))) is not None and isinstance(spread, dict):
        responses = counted(int(found.get("n") or 0), "response")
        if found["value"] < LEAST_SPREAD:
            return f"Collapsed: the scores of {responses} spread by {found['value']:.4f} only (standard deviation)."
        if spread.get("ratings") == 1:
            return f"Collapsed: one rating is the most probable one of all {responses}."
    first, last = (dig(metrics, ("training", "loss", end)) for end in ("first", "last"))
    if first and last and last["value"] >= first["value"] and not _continues(metrics):
        return (
            f"The loss did not fall over training: {first['value']:.3f} in the first tenth of the steps, "
            f"{last['value']:.3f} in the last. More epochs or another learning rate may help."
        )
    for path, name, chance in (PAIRS, LEVELS):
        if (measured := dig(metrics, path)) is not None:
            high = measured.get("high")
            if (measured["value"] if high is None else high) < chance:
                return f"{_told(name, measured)} is worse than guessing ({chance:.2f})."
            over, gain = (
                dig(metrics, ("held_out", "levels", part)) for part in ("over_constant", "rps_gain")
            )
            if path == LEVELS[0] and _below_zero(over) and _below_zero(gain):
                return f"{_told(name, measured)} is worse than always guessing the most common level."
            break
    return ""


def shortfall(metrics: dict[str, Any]) -> tuple[str, str]:
    """What the version was not shown to reach, in a few words (empty: nothing), and the sentence with the figures."""
    path, name, chance = PAIRS
    if (pairs := dig(metrics, path)) is None:
        path, name, chance = LEVELS
        if (levels := dig(metrics, path)) is None:
            return (
                "not measured",
                "no label was held out, as too few groups are labelled, so it was not measured.",
            )
        return _levels_shortfall(metrics, f"{name} {levels['value']:.3f}", chance)
    told = _told(name, pairs)
    told = told[0].lower() + told[1:]
    if (low := pairs.get("low")) is None:
        return (
            "no interval",
            f"{told} has no interval, as its pairs lie in one group: judge pairs of another prompt or group.",
        )
    if low <= chance:
        return "not shown to beat guessing", f"{told} is not shown to be better than one half."
    over = dig(metrics, ("held_out", "pairs", "over_length"))
    if over is None or over.get("high") is None:
        return "", f"{told} is better than one half."
    difference = f"{over['value']:+.3f} ({over['low']:+.3f} to {over['high']:+.3f})"
    if over["high"] < 0:
        return (
            "below “the longer one wins”",
            f"{told} is below “the longer one wins” on the same pairs, by {difference}.",
        )
    return (
        "",
        f"{told} is better than one half and not below “the longer one wins” on the same pairs ({difference}).",
    )


def _levels_shortfall(metrics: dict[str, Any], told: str, chance: float) -> tuple[str, str]:
    """The same where no pair was held out: its ranked error must be less than the constant guess's, by the interval,
    and its accuracy not below that guess's."""
    over, gain = (dig(metrics, ("held_out", "levels", part)) for part in ("over_constant", "rps_gain"))
    if over is None or gain is None:
        return "", f"{told} is above guessing ({chance:.2f})."
    guess = "always guessing the most common level"
    if gain.get("low") is None:
        return (
            "no interval",
            f"{told} has no interval, as its labels lie in one group: label another prompt or group.",
        )
    error = f"{-gain['value']:+.3f} ({-gain['high']:+.3f} to {-gain['low']:+.3f}) RPS"
    if gain["low"] <= 0:
        return "not shown to beat guessing", f"{told} is not shown to be nearer than {guess}: {error}."
    difference = f"{over['value']:+.3f} ({over['low']:+.3f} to {over['high']:+.3f})"
    if _below_zero(over):
        return "below guessing", f"{told} is below {guess}, by {difference}."
    return "", f"{told} is not below {guess} ({difference}), and its error is less: {error}."


def _below_zero(difference: dict[str, Any] | None) -> bool:
    """Whether a whole interval is."""
    return difference is not None and (high := difference.get("high")) is not None and high < 0


def _against(
    metrics: dict[str, Any], serving: ModelVersion, max_drop: float, same_rows: Difference | None
) -> tuple[bool, str]:
    """Whether it is about as good as the serving version at least, and the sentence on it."""
    if same_rows is not None and same_rows.n:
        value, low, high, n = same_rows
        good = value >= -max_drop or (high is not None and high >= 0)
        interval = "" if low is None or high is None else f" ({low:+.3f} to {high:+.3f})"
        return good, (
            f"On the same {counted(n, 'held-out judgement')} it is {value:+.3f}{interval} against the serving "
            f"v{serving.number}: {'not clearly' if good else 'clearly'} worse."
        )
    for path, name, _ in (PAIRS, LEVELS):
        new, old = dig(metrics, path), dig(serving.metrics, path)
        if new is not None and old is not None:
            good = new["value"] >= old["value"] - max_drop
            allowed = "at most" if good else "more than the allowed"
            return good, (
                f"{name.capitalize()} {new['value']:.3f} against {old['value']:.3f} of the serving v{serving.number}, "
                f"each on its own rows: {allowed} {max_drop:.3f} lower."
            )
    return False, f"No held-out metric that it shares with the serving v{serving.number}: an admin decides."


def _told(name: str, measured: dict[str, Any]) -> str:
    low, high = measured.get("low"), measured.get("high")
    interval = "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
    return f"{name.capitalize()} {measured['value']:.3f}{interval}"


def _not_known(metrics: dict[str, Any]) -> str:
    """The parts of the gate that this metrics.json has no figure for."""
    wanted: list[tuple[tuple[str, ...], str]] = [(("spread",), "spread of scores")]
    if metrics.get("method") not in GENERATIVE:
        wanted.append((("training", "loss", "first"), "fall of the loss"))
    if dig(metrics, PAIRS[0]) is not None:
        wanted.append((("held_out", "pairs", "over_length"), "difference from “the longer one wins”"))
    missing = [name for path, name in wanted if dig(metrics, path) is None]
    return f" Not known: {', '.join(missing)}." if missing else ""


def _continues(metrics: dict[str, Any]) -> bool:
    """Whether it went on from another version's weights, whose loss has fallen already."""
    config = metrics.get("config")
    return isinstance(config, dict) and str(config.get("base_model", "")).startswith("version:")


def _cannot_tell_apart(metrics: dict[str, Any]) -> str:
    """Why the version must not serve, if it is blind to more than MOST_ALIKE of the pairs; empty if it is not.

    Two equal texts are nobody's fault and don't count.
    """
    for part, words in (("held_out", "held-out"), ("pairs", "judged")):
        reading = metrics.get("reading")
        counts = reading.get(part) if isinstance(reading, dict) else None
        if isinstance(counts, dict) and (pairs := counts.get("n", 0) - counts.get("equal", 0)) > 0:
            alike = sum(counts.get(cause, 0) for cause in ("unknown", "cut", "spelling"))
            if alike > MOST_ALIKE * pairs:
                return (
                    f"{alike:,} of {pairs:,} {words} pairs read alike to the base model: at most {MOST_ALIKE:.0%} may. "
                    "What the model could not read, and what helps, stands below."
                )
            break
    generative = metrics.get("generative")
    unread = generative.get("unread") if isinstance(generative, dict) else None
    if isinstance(unread, dict) and unread.get("pairs", 0) > MOST_ALIKE * unread.get("n", 0):
        return (
            f"In {unread['pairs']:,} of {unread['n']:,} held-out pairs a side got no vote that could be read: at most "
            f"{MOST_ALIKE:.0%} may. Why, and what helps, stands below."
        )
    judgements = (dig(metrics, PAIRS[0]) or {}).get("n", 0)
    ties = (dig(metrics, ("held_out", "pairs", "model_ties")) or {}).get("value", 0)
    if judgements and ties > MOST_ALIKE * judgements:
        return (
            f"Both sides have one score in {ties:,} of {judgements:,} held-out judgements: "
            f"at most {MOST_ALIKE:.0%} may."
        )
    return ""
