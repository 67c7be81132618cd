"""The loss curve: numbers turned into coordinates, which templates/training/loss_chart.html draws."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

WIDTH, HEIGHT = 640.0, 230.0
LEFT, RIGHT, TOP, BOTTOM = 60.0, 16.0, 12.0, 48.0
MAX_POINTS = 160
MAX_ROWS = 20


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where it stands, and its number."""

    position: float
    label: str


@dataclass(frozen=True)
class LossChart:
    """Coordinates of one polyline in a box of `width` x `height`, its axes, and its numbers in words and rows."""

    points: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    title: str
    rows: list[tuple[int, float]]
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM
    middle: float = (TOP + HEIGHT - BOTTOM) / 2
    centre: float = (LEFT + WIDTH - RIGHT) / 2


def loss_chart(points: Sequence[tuple[int, float]]) -> LossChart | None:
    """The chart of (step, loss) in rising order of steps; None for fewer than two points.

    Long curves are drawn as means of equal shares of the points, so that noise doesn't fill the picture.
    """
    finite = [(step, loss) for step, loss in points if math.isfinite(loss)]
    if len(finite) < 2:
        return None
    curve = _means(finite, MAX_POINTS)
    steps, losses = [step for step, _ in curve], [loss for _, loss in curve]
    x_ticks = nice_ticks(min(0.0, steps[0]), steps[-1], 5)
    y_ticks = nice_ticks(min(0.0, *losses), max(losses), 4)
    x_low, x_high = min(0.0, steps[0]), max(steps[-1], x_ticks[-1])
    y_low, y_high = y_ticks[0], max(y_ticks[-1], *losses)

    def x(step: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (step - x_low) / (x_high - x_low), 1)

    def y(loss: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (loss - y_low) / (y_high - y_low), 1)

    lowest = min(curve, key=lambda point: point[1])
    return LossChart(
        points=" ".join(f"{x(step)},{y(loss)}" for step, loss in curve),
        x_ticks=[Tick(x(value), f"{value:g}") for value in x_ticks],
        y_ticks=[Tick(y(value), f"{value:g}") for value in y_ticks],
        title=(
            f"Training loss: {curve[0][1]:.3f} at step {curve[0][0]:.0f}, {curve[-1][1]:.3f} at step "
            f"{curve[-1][0]:.0f}, lowest {lowest[1]:.3f} at step {lowest[0]:.0f}."
        ),
        rows=[(round(step), loss) for step, loss in _means(finite, MAX_ROWS)],
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
