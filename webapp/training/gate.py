"""The gate: may a new version serve without anybody's click?"""

import math
from typing import Any

from webapp.training.models import ModelVersion

MEASURES = (
    # Path in metrics.json, its name on pages, the accuracy of guessing.
    (("held_out", "pairs", "accuracy"), "held-out pair accuracy", 0.5),
    (("held_out", "levels", "accuracy"), "held-out level accuracy", 1 / 3),
)


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

    1. A version that serves is replaced if the new one's held-out pair accuracy is at most `max_drop` below its.
       (Level accuracy stands in where one of them has no held-out pairs. Both were measured on their own held-out
       groups; those are drawn by name, so that they stay nearly the same while labels come in.)
    2. The first version of a method passes unless its interval lies wholly below the accuracy of guessing.
    3. Without a finite held-out metric there is nothing to go by: only a first version passes, so that pages are
       not empty while a project is too small to hold anything out.
    """
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
