"""Rewards and agreement over time: numbers turned into coordinates. templates/rollouts/chart.html draws them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from django.utils import timezone

from webapp.rollouts.reports import Point
from webapp.training.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Tick, nice_ticks
from webapp.training.curves import Spot


@dataclass(frozen=True)
class Line:
    """A line of the picture; `look` is its class."""

    name: str
    look: str
    points: str
    spots: list[Spot]


@dataclass(frozen=True)
class Picture:
    """Lines over time, one step a point, the axes, and the numbers in words."""

    id: str
    title: str
    lines: list[Line]
    x_ticks: list[tuple[float, str, str]]
    y_ticks: list[Tick]
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    bottom: float = HEIGHT - BOTTOM


# One value of a line: its place, the value, the ends of its interval.
_Value = tuple[int, float, float, float]


def rewards_picture(points: Sequence[Point]) -> Picture | None:
    """The mean reward of all rollouts, a line a version; None without points."""
    if not points:
        return None
    lines: dict[str, list[_Value]] = {}
    for place, point in enumerate(points):
        told = point.rewards
        lines.setdefault(point.version, []).append((place, told.mean, told.low, told.high))
    first, last = points[0].rewards, points[-1].rewards
    title = f"Mean reward of all rollouts: {first.mean:.2f} at first, {last.mean:.2f} at last."
    named = [(name, f"version-{number % 3}", values) for number, (name, values) in enumerate(lines.items())]
    return _picture("rewards", title, points, named, lambda value: f"{value:.2f}", None)


def agreement_picture(points: Sequence[Point]) -> Picture | None:
    """How often the proxy expects to be agreed with, and how often people agree; None where nothing is judged."""
    expected: list[_Value] = []
    people: list[_Value] = []
    good: list[_Value] = []
    for place, point in enumerate(points):
        if point.people is not None and point.expected is not None:
            expected.append((place, point.expected, point.expected, point.expected))
            people.append((place, point.people.value, point.people.low, point.people.high))
        if point.good is not None:
            good.append((place, point.good.value, point.good.low, point.good.high))
    if not people:
        return None
    title = (
        f"People agree with the model: {_percent(people[0][1])} at first, {_percent(people[-1][1])} at last; "
        f"it expects {_percent(expected[0][1])} at first, {_percent(expected[-1][1])} at last."
    )
    named = [
        ("the model expects to be agreed with", "version-0", expected),
        ("people agree", "version-1", people),
    ]
    if good:
        named.append(("people's levels that are good", "version-2", good))
    return _picture("agreement", title, points, named, _percent, (0.0, 1.0))


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _picture(
    id: str,
    title: str,
    points: Sequence[Point],
    named: Sequence[tuple[str, str, list[_Value]]],
    words: Callable[[float], str],
    bounds: tuple[float, float] | None,
) -> Picture:
    ends = [end for _, _, values in named for _, _, *interval in values for end in interval]
    y_ticks = nice_ticks(*(bounds or (min(ends), max(ends))), 4)
    low, high = y_ticks[0], max(y_ticks[-1], *ends)
    step = (WIDTH - LEFT - RIGHT - 40) / max(1, len(points) - 1)

    def x(place: int) -> float:
        return round(LEFT + 20 + place * step, 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / ((high - low) or 1.0), 1)

    lines = []
    for number, (name, look, values) in enumerate(named):
        # Two lines at one place: their intervals stand beside each other.
        shift = 0.0 if id == "rewards" else 3.0 * (number - (len(named) - 1) / 2)
        spots = [
            Spot(
                round(x(place) + shift, 1),
                y(value),
                y(below),
                y(above),
                f"{name}: {words(value)}"
                + (f" ({words(below)} to {words(above)})" if (below, above) != (value, value) else ""),
            )
            for place, value, below, above in values
        ]
        lines.append(Line(name, look, " ".join(f"{spot.x},{spot.y}" for spot in spots), spots))
    marked = [0] if len(points) == 1 else [0, len(points) - 1]
    anchors = ["start", "end"]
    return Picture(
        id=id,
        title=title,
        lines=lines,
        x_ticks=[
            (x(place), f"{timezone.localtime(points[place].until):%-d %b %H:%M}", anchor)
            for place, anchor in zip(marked, anchors, strict=False)
        ],
        y_ticks=[Tick(y(tick), words(tick)) for tick in y_ticks],
    )
