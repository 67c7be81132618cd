"""Accuracy by number of samples of a version that votes: numbers turned into coordinates.

templates/training/curve.html draws them. Counted from stored texts by the training (docs/run-folder.md).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from webapp.training.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Tick, nice_ticks

NAMES = {"votes": "all votes", "meta": "the half that the meta model trusts most"}
# Between the intervals of two lines that stand at the same number of samples.
APART = 3.0
# A line that is flat stands at its height in a picture of at least ten percentage points.
LEAST_SPAN = 0.1


@dataclass(frozen=True)
class Accuracy:
    """The share of held-out judgements that are right, with its 95 % interval where there is one, of n judgements."""

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Spot:
    """A value in the picture: x, and the y of the value and of the ends of its interval."""

    x: float
    y: float
    low: float
    high: float
    title: str


@dataclass(frozen=True)
class Line:
    """A line of the chart; `look` is its class, `values` are by number of samples."""

    name: str
    look: str
    points: str
    spots: list[Spot]
    values: dict[int, Accuracy]


@dataclass(frozen=True)
class VoteCurve:
    """Lines over 1, 2, 4, ... samples, the axes, and the numbers in words and rows."""

    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    title: str
    rows: list[tuple[int, list[Accuracy | None]]]
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    bottom: float = HEIGHT - BOTTOM
    middle: float = (TOP + HEIGHT - BOTTOM) / 2
    centre: float = (LEFT + WIDTH - RIGHT) / 2


def vote_curve(metrics: Mapping[str, Any]) -> VoteCurve | None:
    """The chart from metrics.json's generative.curve; None where there is none, or nothing held out to be right on."""
    generative = metrics.get("generative")
    rows = generative.get("curve") if isinstance(generative, Mapping) else None
    values: dict[str, dict[int, Accuracy]] = {name: {} for name in NAMES}
    for row in rows if isinstance(rows, Sequence) else ():
        for name, known in values.items():
            if (found := _accuracy(row.get(name))) is not None:
                known[int(row["samples"])] = found
    values = {name: dict(sorted(known.items())) for name, known in values.items() if known}
    if not values:
        return None
    every = [each for known in values.values() for each in known.values()]
    ends = [end for each in every for end in (each.value, each.low, each.high) if end is not None]
    bottom = max(0.0, min(min(ends), max(ends) - LEAST_SPAN))
    top = max(max(ends), bottom + LEAST_SPAN)
    y_ticks = [tick for tick in nice_ticks(bottom, top, 4) if 0 <= tick <= 1]
    low, high = min(y_ticks[0], bottom), max(y_ticks[-1], top)
    samples = sorted({number for known in values.values() for number in known})
    most = math.log2(samples[-1]) or 1.0

    def x(number: int) -> float:
        """Doubling the samples is one step."""
        return LEFT + 12 + (WIDTH - LEFT - RIGHT - 24) * math.log2(number) / most

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / ((high - low) or 1.0), 1)

    lines = []
    for place, (name, known) in enumerate(values.items()):
        shift = APART * (2 * place - len(values) + 1)
        spots = [
            Spot(
                round(x(number) + shift, 1),
                y(each.value),
                y(each.value if each.low is None else each.low),
                y(each.value if each.high is None else each.high),
                f"{NAMES[name]}, {number} sample{'s' * (number > 1)}: {_words(each)}",
            )
            for number, each in known.items()
        ]
        points = " ".join(f"{spot.x},{spot.y}" for spot in spots)
        lines.append(Line(NAMES[name], f"version-{place}", points, spots, known))
    first, last = samples[0], samples[-1]
    words = [
        f"{line.name} {100 * line.values[number].value:.1f} % right with {number} sample{'s' * (number > 1)}"
        for line in lines
        for number in dict.fromkeys((min(line.values), max(line.values)))
    ]
    return VoteCurve(
        lines=lines,
        x_ticks=[Tick(round(x(number), 1), str(number)) for number in samples],
        y_ticks=[Tick(y(tick), f"{100 * tick:g} %") for tick in y_ticks],
        title=f"Accuracy by number of samples, {first} to {last}: {'; '.join(words)}.",
        rows=[(number, [line.values.get(number) for line in lines]) for number in samples],
    )


def _accuracy(found: Any) -> Accuracy | None:
    if not isinstance(found, Mapping) or not isinstance(found.get("value"), (int, float)):
        return None
    return Accuracy(found["value"], found.get("low"), found.get("high"), found.get("n") or 0)


def _words(each: Accuracy) -> str:
    interval = (
        f" ({100 * each.low:.1f} to {100 * each.high:.1f} %)"
        if each.low is not None and each.high is not None
        else ""
    )
    return f"{100 * each.value:.1f} %{interval} of {each.n} judgement{'s' * (each.n != 1)}"
