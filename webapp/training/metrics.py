"""metrics.json as rows of a table: this version, its yardstick, and the version that served before it."""

from dataclasses import dataclass
from typing import Any

from webapp.training.gate import dig
from webapp.training.models import saw_levels


@dataclass(frozen=True)
class Cell:
    """One measured number, with its interval and count where it has them; value None: could not be computed."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(frozen=True)
class Row:
    """One metric. `share`: shown in percent. `yardstick`: what the number is to be held against, in words."""

    name: str
    new: Cell
    old: Cell | None
    share: bool = False
    yardstick: str = ""


_ROWS = (
    # Name, path in metrics.json, in percent?, help
    ("Pair accuracy", ("held_out", "pairs", "accuracy"), True),
    ("Accuracy of “the longer one wins”", ("held_out", "pairs", "length_baseline"), True),
    ("Better than “the longer one wins” by", ("held_out", "pairs", "over_length"), True),
    ("Pair accuracy, nearly equal length", ("held_out", "pairs", "near_equal_length"), True),
    ("Human ceiling (leave one out)", ("held_out", "pairs", "human_ceiling"), True),
    ("Log loss against vote shares (NLL)", ("held_out", "pairs", "nll"), False),
    ("Squared error against vote shares (Brier)", ("held_out", "pairs", "brier"), False),
    ("Calibration error (ECE)", ("held_out", "pairs", "ece"), False),
    ("Level accuracy", ("held_out", "levels", "accuracy"), True),
    ("Accuracy of always guessing the most common level", ("held_out", "levels", "constant"), True),
    ("Better than the most common level by", ("held_out", "levels", "over_constant"), True),
    ("Level agreement (weighted kappa)", ("held_out", "levels", "quadratic_kappa"), False),
    ("Level error (ranked probability score, RPS)", ("held_out", "levels", "rps"), False),
    ("Level error (RPS) less than that guess's by", ("held_out", "levels", "rps_gain"), False),
    ("AUROC good against bad", ("held_out", "auroc_good_bad"), False),
    ("Peaks of a rating distribution (mean)", ("spread", "peaks"), False),
    ("Pair accuracy, cross-fitted on the other groups", ("crossfit", "pairs", "accuracy"), True),
    ("Level accuracy, cross-fitted on the other groups", ("crossfit", "levels", "accuracy"), True),
)


def _cell(metrics: dict[str, Any], path: tuple[str, ...]) -> Cell:
    if path[1] == "levels" and not _told_levels(metrics):
        return Cell()
    found = dig(metrics, path)
    if found is None and path == ("held_out", "auroc_good_bad"):
        found = dig(metrics, ("auroc_good_bad",))
    if found is None:
        return Cell()
    parent = metrics[path[0]].get(path[1]) if isinstance(metrics.get(path[0]), dict) else None
    n = found.get("n", parent.get("n") if isinstance(parent, dict) and len(path) > 2 else None)
    return Cell(found["value"], found.get("low"), found.get("high"), n)


def _told_levels(metrics: dict[str, Any]) -> bool:
    """Whether agreement with people's levels says anything: a version that saw none rates on a scale of its own."""
    config = metrics.get("config")
    return saw_levels(metrics, config.get("method", "") if isinstance(config, dict) else "")


def metric_rows(metrics: dict[str, Any], old: dict[str, Any] | None = None) -> list[Row]:
    """The rows that at least one of the two versions has a number for."""
    rows = []
    for name, path, share in _ROWS:
        new = _cell(metrics, path)
        before = _cell(old, path) if old is not None else None
        if new.value is None and (before is None or before.value is None):
            continue
        found = dig(metrics, path) or {}
        floor = found.get("floor")
        yardstick = f"at best {floor:.3f}" if isinstance(floor, (int, float)) else ""
        rows.append(Row(name, new, before, share, yardstick))
    return rows


@dataclass(frozen=True)
class Headline:
    """The two numbers that stand beside a run in lists; of pairs, or `of_levels` where no pair was held out."""

    accuracy: Cell
    length: Cell
    of_levels: bool = False


def headline(metrics: dict[str, Any]) -> Headline:
    """Held-out pair accuracy beside length baseline, else level accuracy beside the constant guess; or nothing."""
    pairs = _cell(metrics, ("held_out", "pairs", "accuracy"))
    levels = _cell(metrics, ("held_out", "levels", "accuracy"))
    if pairs.value is None and levels.value is not None:
        return Headline(levels, _cell(metrics, ("held_out", "levels", "constant")), of_levels=True)
    return Headline(pairs, _cell(metrics, ("held_out", "pairs", "length_baseline")))
