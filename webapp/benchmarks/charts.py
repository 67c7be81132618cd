"""Best-of-n curves: numbers turned into coordinates. templates/benchmarks/curve.html draws them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from webapp.training.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Tick, nice_ticks

MAX_VERSIONS = 3  # as many as can be told apart by their dashes
REFERENCES = {"oracle": "the best of them", "length": "the longest", "random": "any of them"}


@dataclass(frozen=True)
class Curve:
    """A line in the chart: its name, its look (a class) and its points; `values` by k."""

    name: str
    look: str
    points: str
    values: list[float]


@dataclass(frozen=True)
class CurveChart:
    """Curves over k responses in a box of `width` x `height`, its axes, and its numbers in words and rows."""

    lines: list[Curve]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    title: str
    n: int
    items: int
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    bottom: float = HEIGHT - BOTTOM
    middle: float = (TOP + HEIGHT - BOTTOM) / 2
    centre: float = (LEFT + WIDTH - RIGHT) / 2

    @property
    def rows(self) -> list[tuple[int, list[float]]]:
        """k, and each curve's value there: powers of two, and the last."""
        ks = [k for k in range(1, self.n + 1) if k & (k - 1) == 0 or k == self.n]
        return [(k, [curve.values[k - 1] for curve in self.lines]) for k in ks]


def curve_chart(measured: Sequence[tuple[str, Mapping[str, Any]]]) -> CurveChart | None:
    """The chart of (version's name, best_of_n of its result); None where the set has no curve."""
    shown = [(name, curve) for name, curve in measured if curve][:MAX_VERSIONS]
    if not shown:
        return None
    first = shown[0][1]
    n = first["n"]
    lines = [(name, f"version-{number}", curve["model"]) for number, (name, curve) in enumerate(shown)]
    references = {"oracle": first["oracle"], "length": first["length"], "random": [first["random"]] * n}
    lines += [(REFERENCES[look], look, values) for look, values in references.items()]
    every = [value for _, _, values in lines for value in values]
    y_ticks = nice_ticks(min(every), max(every), 4)
    low, high = y_ticks[0], y_ticks[-1]

    def x(k: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (k - 1) / (n - 1), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low), 1)

    words = [
        f"{name}: {curve['model'][0]:.3f} for one, {curve['model'][-1]:.3f} for {n}" for name, curve in shown
    ]
    return CurveChart(
        lines=[
            Curve(
                name, look, " ".join(f"{x(k)},{y(value)}" for k, value in enumerate(values, 1)), list(values)
            )
            for name, look, values in lines
        ],
        x_ticks=[Tick(x(k), f"{k:g}") for k in _k_ticks(n)],
        y_ticks=[Tick(y(value), f"{value:g}") for value in y_ticks],
        title=f"{'; '.join(words)}; the best possible {first['oracle'][-1]:.3f}, any of them {first['random']:.3f}.",
        n=n,
        items=first["items"],
    )


def _k_ticks(n: int) -> list[int]:
    """All of a few; of many the round ones below the last."""
    if n <= 8:
        return list(range(1, n + 1))
    step = int(nice_ticks(0, n, 5)[1])
    return [1, *(k for k in range(step, n, step) if n - k > step / 2), n]
