"""The loss curve and the reliability diagram: numbers turned into coordinates.

templates/training/loss_chart.html and reports.html#reliability draw them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from webapp.training.reports import Bin

WIDTH, HEIGHT = 640.0, 230.0
LEFT, RIGHT, TOP, BOTTOM = 72.0, 16.0, 12.0, 48.0
MAX_POINTS = 160
MAX_ROWS = 20


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where it stands, and its number."""

    position: float
    label: str


@dataclass(frozen=True)
class LossChart:
    """Coordinates of one polyline in a box of `width` x `height`, its axes, and its numbers in words and rows.

    With early stopping a second one: the NLL on the groups kept for it, with a mark at the step that was kept.
    """

    points: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    title: str
    rows: list[tuple[int, float]]
    validation: str = ""
    validation_points: tuple[tuple[float, float], ...] = ()
    best: float | None = None
    axis: str = "loss"
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM
    middle: float = (TOP + HEIGHT - BOTTOM) / 2
    centre: float = (LEFT + WIDTH - RIGHT) / 2


_AXES: dict[str, tuple[str, str, Callable[..., tuple[float, float]]]] = {
    "loss": ("Training loss", "lowest", min),
    "reward": ("Mean reward", "highest", max),
    "KL": ("KL from the model it began with", "highest", max),
}


def loss_chart(
    points: Sequence[tuple[int, float]],
    validation: Sequence[tuple[int, float]] = (),
    best_step: int | None = None,
    *,
    axis: str = "loss",
) -> LossChart | None:
    """The chart of (step, loss) in rising order of steps; None for fewer than two points.

    Long curves are drawn as means of equal shares of the points, so that noise doesn't fill the picture.
    `validation`: (step, NLL) of early stopping, drawn as measured. `axis`: loss, reward or KL.
    """
    finite = [(step, loss) for step, loss in points if math.isfinite(loss)]
    if len(finite) < 2:
        return None
    curve = _means(finite, MAX_POINTS)
    checked = [(step, nll) for step, nll in validation if math.isfinite(nll)]
    steps = [step for step, _ in (*curve, *checked)]
    losses = [loss for _, loss in (*curve, *checked)]
    x_ticks = nice_ticks(min(0.0, *steps), max(steps), 5)
    y_ticks = nice_ticks(min(0.0, *losses), max(losses), 4)
    x_low, x_high = min(0.0, *steps), max(*steps, x_ticks[-1])
    y_low, y_high = y_ticks[0], max(y_ticks[-1], *losses)

    def x(step: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (step - x_low) / (x_high - x_low), 1)

    def y(loss: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (loss - y_low) / (y_high - y_low), 1)

    name, extreme, best_of = _AXES[axis]
    extremal = best_of(curve, key=lambda point: point[1])
    title = (
        f"{name}: {curve[0][1]:.3f} at step {curve[0][0]:.0f}, {curve[-1][1]:.3f} at step "
        f"{curve[-1][0]:.0f}, {extreme} {extremal[1]:.3f} at step {extremal[0]:.0f}."
    )
    if checked:
        best = min(checked, key=lambda point: point[1])
        first = checked[0]
        title += (
            f" Log loss on groups kept aside: {first[1]:.3f} at step {first[0]}, "
            f"lowest {best[1]:.3f} at step {best[0]}."
        )
    return LossChart(
        points=" ".join(f"{x(step)},{y(loss)}" for step, loss in curve),
        x_ticks=[Tick(x(value), f"{value:g}") for value in x_ticks],
        y_ticks=[Tick(y(value), f"{value:g}") for value in y_ticks],
        title=title,
        rows=[(round(step), loss) for step, loss in _means(finite, MAX_ROWS)],
        validation=" ".join(f"{x(step)},{y(nll)}" for step, nll in checked),
        validation_points=tuple((x(step), y(nll)) for step, nll in checked),
        best=None if best_step is None or not checked else x(best_step),
        axis=axis,
    )


def _means(points: Sequence[tuple[float, float]], count: int) -> list[tuple[float, float]]:
    """At most `count` points: the last step and the mean loss of each of equal shares."""
    if len(points) <= count:
        return list(points)
    edges = [round(index * len(points) / count) for index in range(count + 1)]
    result = []
    for start, stop in pairwise(edges):
        share = points[start:stop]
        result.append((share[-1][0], sum(loss for _, loss in share) / len(share)))
    return result


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about `count` steps apart."""
    span = high - low
    if span <= 1e-9 * max(1.0, abs(low), abs(high)):
        # A flat line: a step of its own size, or of one.
        span = abs(high) if abs(high) > 1e-9 else 1.0
    rough = span / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]


# --- Reliability ---

SQUARE = 380.0
R_LEFT, R_TOP = 62.0, 8.0
COUNTS_GAP, COUNTS_HEIGHT = 16.0, 56.0


@dataclass(frozen=True)
class Spot:
    """A bin's place in the diagram, and its numbers in words."""

    x: float
    y: float
    title: str


@dataclass(frozen=True)
class CountBar:
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class ReliabilitySeries:
    """The bins of one set of probabilities that are not empty: their spots, the line through them, their counts."""

    name: str
    drawn_as: str  # before | after
    spots: list[Spot]
    line: str
    counts: list[CountBar]


@dataclass(frozen=True)
class ReliabilityChart:
    """Predicted probability against share of votes in a square, and under it the number of pairs' sides in each bin."""

    series: list[ReliabilitySeries]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    most: int
    title: str
    width: float = R_LEFT + SQUARE + 14
    height: float = R_TOP + SQUARE + COUNTS_GAP + COUNTS_HEIGHT + 46
    left: float = R_LEFT
    right: float = R_LEFT + SQUARE
    top: float = R_TOP
    bottom: float = R_TOP + SQUARE
    counts_top: float = R_TOP + SQUARE + COUNTS_GAP
    counts_bottom: float = R_TOP + SQUARE + COUNTS_GAP + COUNTS_HEIGHT
    middle: float = R_TOP + SQUARE / 2
    centre: float = R_LEFT + SQUARE / 2


def reliability_chart(before: Sequence[Bin], after: Sequence[Bin] = ()) -> ReliabilityChart | None:
    """The reliability diagram of one or two sets of bins; None where no bin holds a pair.

    Without `after` the version serves `before`, which is drawn as what is served.
    """
    named = (
        [("before", "before", before), ("after", "after", after)] if after else [("served", "after", before)]
    )
    most = max((each.n for _, _, bins in named for each in bins), default=0)
    if not most:
        return None

    def x(share: float) -> float:
        return round(R_LEFT + SQUARE * min(max(share, 0.0), 1.0), 1)

    def y(share: float) -> float:
        return round(R_TOP + SQUARE * (1 - min(max(share, 0.0), 1.0)), 1)

    series = []
    for number, (name, drawn_as, bins) in enumerate(named):
        spots = [
            Spot(
                x(each.predicted),
                y(each.observed),
                f"{name}: predicted {100 * each.predicted:.1f} %, observed {100 * each.observed:.1f} %, "
                f"{each.n} side{'' if each.n == 1 else 's'}",
            )
            for each in bins
            if each.n and each.predicted is not None and each.observed is not None
        ]
        counts = []
        for each in bins:
            slot = SQUARE * (each.high - each.low)
            # Two sets share a bin's width; a lone one takes it all.
            width, height = 0.84 * slot / len(named), COUNTS_HEIGHT * each.n / most
            foot = R_TOP + SQUARE + COUNTS_GAP + COUNTS_HEIGHT
            start = R_LEFT + SQUARE * each.low + 0.08 * slot + number * width
            counts.append(
                CountBar(round(start, 1), round(foot - height, 1), round(width, 1), round(height, 1))
            )
        line = " ".join(f"{spot.x},{spot.y}" for spot in spots)
        series.append(ReliabilitySeries(name, drawn_as, spots, line, counts))
    words = [
        f"{each.name} {_farthest(bins)}"
        for each, (_, _, bins) in zip(series, named, strict=True)
        if each.spots
    ]
    shares = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    return ReliabilityChart(
        series=series,
        x_ticks=[Tick(x(share), f"{share:.1f}") for share in shares],
        y_ticks=[Tick(y(share), f"{share:.1f}") for share in shares],
        most=most,
        title=f"Predicted probability against share of votes, largest gap: {'; '.join(words)}.",
    )


def _farthest(bins: Sequence[Bin]) -> str:
    """The largest gap between predicted and observed, in words."""
    gaps = [
        (abs(each.predicted - each.observed), each)
        for each in bins
        if each.n and each.predicted is not None and each.observed is not None
    ]
    gap, each = max(gaps, key=lambda item: item[0])
    return f"{100 * gap:.0f} points at {each.low:.1f} to {each.high:.1f}"
