"""The gate: may a new version serve without anybody's click?"""

import math
from typing import Any

from webapp.training.models import ModelVersion

MEASURES = (
    # Path in metrics.json, its name on pages, the accuracy of guessing.
    (("held_out", "pairs", "accuracy"), "held-out pair accuracy", 0.5),
    (("held_out", "levels", "accuracy"), "held-out level accuracy", 1 / 3),
)

# Of the pairs that a version is measured on, how many it may not tell apart.
MOST_ALIKE = 0.05


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


def gate_check(metrics: dict[str, Any], *, serving: ModelVersion | None, max_drop: float) -> tuple[bool, str]:
    """Whether a version with these metrics is promoted by itself, and why, in one sentence.

    1. No version passes that can't tell apart more than 5 % of the pairs it is measured on: its base model reads both
       sides alike, or it gives them one score.
    2. A version that serves is replaced if the new one's held-out pair accuracy is at most `max_drop` below its.
       (Level accuracy stands in where one of them has no held-out pairs. Both were measured on their own held-out
       groups; those are drawn by name, so that they stay nearly the same while labels come in.)
    3. The first version of a method passes unless its interval lies wholly below the accuracy of guessing.
    4. Without a finite held-out metric there is nothing to go by: only a first version passes, so that pages are
       not empty while a project is too small to hold anything out.
    """
    if refusal := _cannot_tell_apart(metrics):
        return False, refusal
    for path, name, chance in MEASURES:
        if (new := dig(metrics, path)) is None:
            continue
        value = new["value"]
        if serving is None:
            high = new.get("high")
            passed = (value if high is None else high) >= chance
            word = "not worse than guessing" if passed else "worse than guessing"
            return passed, f"First version: {name} {value:.3f} is {word} ({chance:.2f})."
        if (old := dig(serving.metrics, path)) is None:
            continue
        passed = value >= old["value"] - max_drop
        allowed = (
            f"it may be at most {max_drop:.3f} lower"
            if passed
            else f"more than the allowed {max_drop:.3f} lower"
        )
        return passed, (
            f"{name.capitalize()} {value:.3f} against {old['value']:.3f} of the serving v{serving.number}: {allowed}."
        )
    if serving is None:
        return True, "First version: too few labels to hold any out, so it could not be measured."
    return False, f"No held-out metric that it shares with the serving v{serving.number}: an admin decides."


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
    judgements = (dig(metrics, MEASURES[0][0]) or {}).get("n", 0)
    ties = (dig(metrics, ("held_out", "pairs", "model_ties")) or {}).get("value", 0)
    if judgements and ties > MOST_ALIKE * judgements:
        return (
            f"Both sides have one score in {ties:,} of {judgements:,} held-out judgements: "
            f"at most {MOST_ALIKE:.0%} may."
        )
    return ""
