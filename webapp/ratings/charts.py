"""Numbers into coordinates: what templates/charts.html draws as inline SVG. Pure functions, no database.

The signature picture is the rating strip: nine bars over the 1..9 axis, three shaded bands (bad, normal, good), a
mark at E[s] with its spread, and one dot per person above the band of the level that they gave. Upwards it runs from 0
to a round number above the highest bar (TOPS), labelled; no bar is cut. Strips that stand beside each other share that
number: the two of a pair, those of a comparison, the sparklines of a list. A model that saw no level has no bands
(`bounds` None): where bad ends on its axis, nobody knows.

Coordinates are rounded to a tenth of the picture's own unit; the template scales the whole picture by its viewBox.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from webapp.ratings.probabilities import RATINGS
from webapp.words import counted

# What a strip's axis may end at, with the step of its grid. Few, so that most strips have the same scale.
TOPS = {0.05: 0.01, 0.1: 0.02, 0.2: 0.05, 0.25: 0.05, 0.5: 0.1, 1.0: 0.25}
# A bar of votes is cut into them where each is so high.
VOTE_HEIGHT = 4.0
ROUNDING = 1e-6  # float32 sums to 1 give or take this

Bounds = Mapping[str, tuple[int, int]]  # level -> lowest and highest rating


@dataclass(frozen=True)
class Rated:
    """What a strip shows of one response; p is None while there is no prediction (people's dots alone)."""

    p: Sequence[float] | None = None  # p(1) .. p(9)
    expected: float | None = None  # E[s]
    spread: float | None = None  # standard deviation
    people: Mapping[str, int] = field(default_factory=dict)  # level -> how many people gave it
    votes: Sequence[int] = ()  # the ratings that p was counted from, where it was


@dataclass(frozen=True)
class Bar:
    """One bar with its value; `inside` where its number has no room above it.

    votes: how many votes it stands for, None where it was not counted from votes; cuts: y between two of them.
    """

    name: str
    value: float
    x: float
    y: float
    width: float
    height: float
    middle: float
    label_y: float
    kind: str = ""
    inside: bool = False
    votes: int | None = None
    cuts: tuple[float, ...] = ()


@dataclass(frozen=True)
class Band:
    """A level's shaded part of the axis, with a dot for each person who gave this level."""

    name: str
    x: float
    y: float
    width: float
    height: float
    middle: float
    people: int
    dots: tuple[tuple[float, float], ...]
    # People for whom there was no room; the header has the whole number.
    more: int


@dataclass(frozen=True)
class Marker:
    """E[s] with its spread: x of the mark, and of the whiskers one standard deviation away (kept on the axis)."""

    x: float
    y: float
    low: float
    high: float
    label: str


@dataclass(frozen=True)
class Line:
    """A grid line, or a tick of an axis, with its label."""

    position: float
    label: str


@dataclass(frozen=True)
class Half:
    """One distribution of a strip: the only one, or the upper or lower of a mirrored pair."""

    name: str
    bars: tuple[Bar, ...]
    bands: tuple[Band, ...]
    marker: Marker | None
    grid: tuple[Line, ...]
    edge: float  # y of the scale's upper (outer) edge
    baseline: float
    dots_y: float
    title: str


@dataclass(frozen=True)
class Strip:
    """A rating strip ready to be drawn."""

    width: float
    height: float
    left: float
    right: float
    top: float  # the probability at the outer edge of each half
    halves: tuple[Half, ...]
    ratings: tuple[Line, ...]
    ratings_y: float
    names_y: float
    dot: float
    title: str


@dataclass(frozen=True)
class _Frame:
    """Where a strip's columns and dots go."""

    left: float
    column: float
    unit: float  # height of the axis
    dot: float  # radius
    gap: float  # between the centres of two dots
    rows: int

    @property
    def right(self) -> float:
        return self.left + RATINGS * self.column

    def x(self, rating: float) -> float:
        """Centre of a rating's column, also for ratings in between."""
        return _round(self.left + (rating - 0.5) * self.column)


_LARGE = _Frame(left=48, column=46.5, unit=150, dot=5, gap=13, rows=2)
_MIRRORED = _Frame(left=48, column=46.5, unit=105, dot=4.5, gap=12, rows=2)
_SPARK = _Frame(left=0, column=12, unit=24, dot=1.8, gap=5, rows=1)


def axis_top(strips: Iterable[Rated]) -> float:
    """The smallest of TOPS that no bar of these strips is higher than."""
    highest = max((max(rated.p) for rated in strips if rated.p), default=0.0)
    return next((top for top in TOPS if highest <= top + ROUNDING), 1.0)


def rating_strip(rated: Rated, bounds: Bounds | None, *, top: float | None = None) -> Strip:
    """The large strip of one response: 480 x 274 units, 480 x 212 without bands.

    `bounds`: lowest and highest rating of each level, None for a model that saw no levels. `top`: what the axis ends
    at where several strips share it. Raises ValueError unless p has nine values, none above `top`.
    """
    frame, header = _LARGE, 50.0 if bounds else 20.0
    baseline = header + frame.unit
    half = _half(
        "",
        rated,
        bounds,
        frame,
        top=top or axis_top([rated]),
        edge=header,
        baseline=baseline,
        dots_y=27,
        reach=(10, baseline),
        marker_y=baseline + 12,
    )
    return Strip(
        width=480, height=baseline + (74 if bounds else 42), left=frame.left, right=frame.right,
        top=top or axis_top([rated]), halves=(half,), ratings=_ratings(frame), ratings_y=baseline + 38,
        names_y=baseline + 61, dot=frame.dot, title=half.title,
    )  # fmt: skip


def mirrored_strip(a: Rated, b: Rated, bounds: Bounds | None) -> Strip:
    """Two strips back to back, a above the axis and b below it, on one scale: 480 x 378 units, 351 without bands."""
    frame, header, top = _MIRRORED, 40.0 if bounds else 36.0, axis_top([a, b])
    upper = header + frame.unit
    lower = upper + (88 if bounds else 69)
    edge = lower + frame.unit
    above = _half(
        "A", a, bounds, frame, top=top, edge=header, baseline=upper, dots_y=16, reach=(4, upper), marker_y=upper + 12
    )  # fmt: skip
    below = _half(
        "B", b, bounds, frame, top=top, edge=edge, baseline=lower, dots_y=edge + 16, reach=(lower, edge + 36),
        marker_y=lower - 12,
    )  # fmt: skip
    return Strip(
        width=480, height=edge + header, left=frame.left, right=frame.right, top=top, halves=(above, below),
        ratings=_ratings(frame), ratings_y=upper + 40, names_y=upper + 61, dot=frame.dot,
        title=f"{above.title} {below.title}",
    )  # fmt: skip


def sparkline(rated: Rated, bounds: Bounds | None, *, top: float) -> Strip:
    """The strip for lists: 108 x 36 units, the same columns without letters; `top` is that of the whole list."""
    frame, header = _SPARK, 6.0
    baseline = header + frame.unit
    half = _half(
        "",
        rated,
        bounds,
        frame,
        top=top,
        edge=header,
        baseline=baseline,
        dots_y=3,
        reach=(0, baseline),
        marker_y=baseline + 3,
    )
    return Strip(
        width=108, height=baseline + 6, left=frame.left, right=frame.right, top=top, halves=(half,), ratings=(),
        ratings_y=0, names_y=0, dot=frame.dot, title=half.title,
    )  # fmt: skip


def _half(
    name: str,
    rated: Rated,
    bounds: Bounds | None,
    frame: _Frame,
    *,
    top: float,
    edge: float,
    baseline: float,
    dots_y: float,
    reach: tuple[float, float],
    marker_y: float,
) -> Half:
    """One distribution between `baseline` and `edge` (above or below it); its bands are shaded over `reach`."""
    p = rated.p
    if p is not None and len(p) != RATINGS:
        raise ValueError(f"a rating distribution has {RATINGS} values, not {len(p)}")
    if p is not None and max(p) > top + ROUNDING:
        raise ValueError(f"a bar of {max(p)} does not fit under {top}")
    up = edge < baseline
    levels = bounds or {}
    level_of = {rating: level for level, (low, high) in levels.items() for rating in range(low, high + 1)}
    bars = []
    for rating, value in enumerate(p or (), start=1):
        height = _round(frame.unit * min(max(value, 0.0), top) / top)
        inside = height > frame.unit - 15
        if up:
            label_y = baseline - height + (15 if inside else -5)
        else:
            label_y = baseline + height + (-6 if inside else 14)
        votes = rated.votes.count(rating)
        piece = height / max(1, votes)
        cuts = range(1, votes) if piece >= VOTE_HEIGHT else ()
        bars.append(
            Bar(
                name=str(rating), value=value, x=_round(frame.x(rating) - 0.39 * frame.column),
                y=_round(baseline - height) if up else baseline, width=_round(0.78 * frame.column), height=height,
                middle=frame.x(rating), label_y=_round(label_y), kind=level_of.get(rating, ""), inside=inside,
                votes=votes if rated.votes else None,
                cuts=tuple(_round(baseline + (-piece if up else piece) * cut) for cut in cuts),
            )
        )  # fmt: skip
    bands = tuple(
        _band(
            level, low, high, rated.people.get(level, 0), frame, top=reach[0], bottom=reach[1], dots_y=dots_y
        )
        for level, (low, high) in levels.items()
    )
    marker = None
    if rated.expected is not None:
        # The votes show their spread themselves.
        spread = 0.0 if rated.votes else rated.spread or 0.0
        marker = Marker(
            x=frame.x(rated.expected),
            y=_round(marker_y),
            low=max(frame.left, frame.x(rated.expected - spread)),
            high=min(frame.right, frame.x(rated.expected + spread)),
            label=f"mean rating {rated.expected:.2f}" + (f" ± {spread:.2f}" if not rated.votes else ""),
        )
    side = -1 if up else 1
    lines = [count * TOPS[top] for count in range(1, round(top / TOPS[top]) + 1)] if p else []
    grid = tuple(
        Line(_round(baseline + side * frame.unit * share / top), f"{100 * share:.0f} %") for share in lines
    )
    return Half(
        name=name, bars=tuple(bars), bands=bands, marker=marker, grid=grid, edge=edge, baseline=baseline, dots_y=dots_y,
        title=strip_title(rated, name=name),
    )  # fmt: skip


def _band(
    name: str, low: int, high: int, people: int, frame: _Frame, *, top: float, bottom: float, dots_y: float
) -> Band:
    x, width = frame.left + (low - 1) * frame.column, (high - low + 1) * frame.column
    per_row = max(1, int((width - 4) // frame.gap))
    shown = min(people, per_row * frame.rows)
    rows = math.ceil(shown / per_row)
    middle = x + width / 2
    dots = []
    for index in range(shown):
        row, place = divmod(index, per_row)
        in_row = min(per_row, shown - row * per_row)
        y = dots_y + row * frame.gap if rows > 1 else dots_y + (frame.rows - 1) * frame.gap / 2
        dots.append((_round(middle + (place - (in_row - 1) / 2) * frame.gap), _round(y)))
    return Band(
        name=name, x=_round(x), y=_round(top), width=_round(width), height=_round(bottom - top), middle=_round(middle),
        people=people, dots=tuple(dots), more=people - shown,
    )  # fmt: skip


def strip_title(rated: Rated, *, name: str = "") -> str:
    """The strip in words, for readers who don't see it."""
    words = f"{name}: " if name else ""
    if rated.p is None:
        words += "No predicted ratings"
    else:
        likely = max(range(RATINGS), key=lambda index: rated.p[index] if rated.p else 0.0)
        words += f"Predicted ratings: most likely {likely + 1} ({100 * rated.p[likely]:.0f} %)"
    if rated.expected is not None:
        words += f", mean {rated.expected:.1f}" + (
            f" ± {rated.spread:.1f}" if rated.spread is not None and not rated.votes else ""
        )
    if rated.votes:
        words += f", {counted(len(rated.votes), 'vote')}: {', '.join(map(str, sorted(rated.votes)))}"
    said = [f"{count} {level}" for level, count in rated.people.items() if count]
    return f"{words}. " + (f"People: {', '.join(said)}." if said else "No levels from people.")


def _ratings(frame: _Frame) -> tuple[Line, ...]:
    return tuple(Line(position=frame.x(rating), label=str(rating)) for rating in range(1, RATINGS + 1))


# --- Scalar rewards ---


@dataclass(frozen=True)
class ScorePlace:
    """Where one score stands among the others."""

    name: str
    score: float
    x: float
    anchor: str  # of its label, so that it stays in the picture


@dataclass(frozen=True)
class Histogram:
    """The scores of all responses of a project, with the place of some of them."""

    width: float
    height: float
    left: float
    right: float
    edge: float
    baseline: float
    bars: tuple[Bar, ...]
    ticks: tuple[Line, ...]
    places: tuple[ScorePlace, ...]
    bands: tuple[Band, ...]
    title: str


def score_bins(scores: Sequence[float], bins: int = 24) -> tuple[float, float, list[int]]:
    """Lowest and highest score and the counts of `bins` equal bins between them; one bin if all are equal.

    Raises ValueError for no scores.
    """
    if not scores:
        raise ValueError("no scores")
    low, high = min(scores), max(scores)
    if low == high:
        return low, high, [len(scores)]
    counts = [0] * bins
    for score in scores:
        counts[min(bins - 1, int((score - low) / (high - low) * bins))] += 1
    return low, high, counts


def score_histogram(
    low: float,
    high: float,
    counts: Sequence[int],
    places: Mapping[str, float],
    cuts: tuple[float, float] | None = None,
) -> Histogram:
    """The scalar counterpart of the strip: 480 x 200 units, the model's own scale from its lowest to highest score.

    `low`, `high`, `counts` come from `score_bins`; `places`: scores to mark, by name. `cuts`: where bad and normal end
    for a model that saw levels; the picture then has their bands and is 222 units high.
    """
    left, right, edge, baseline = 14.0, 466.0, 40.0, 160.0
    width = (right - left) / len(counts)
    tallest, step = max(counts) or 1, (high - low) / len(counts)
    bars = tuple(
        Bar(
            name=f"{low + index * step:.2f} to {low + (index + 1) * step:.2f}", value=count,
            x=_round(left + index * width + 0.06 * width), y=_round(baseline - (baseline - edge) * count / tallest),
            width=_round(0.88 * width), height=_round((baseline - edge) * count / tallest),
            middle=_round(left + (index + 0.5) * width), label_y=0,
        )
        for index, count in enumerate(counts)
    )  # fmt: skip

    def x(score: float) -> float:
        share = (score - low) / (high - low) if high > low else 0.5
        return _round(left + (right - left) * min(max(share, 0.0), 1.0))

    marks = tuple(
        ScorePlace(
            name=name, score=score, x=x(score),
            anchor="start" if x(score) < 60 else "end" if x(score) > 420 else "middle",
        )
        for name, score in places.items()
    )  # fmt: skip
    spots = [low, (low + high) / 2, high] if high > low else [low]
    ticks = tuple(Line(position=x(spot), label=f"{spot:.2f}") for spot in spots)
    words = ", ".join(f"{name} {score:.2f}".strip() for name, score in places.items())
    title = f"Scores of {counted(sum(counts), 'response')} from {low:.2f} to {high:.2f}; {words}."
    bands: tuple[Band, ...] = ()
    if cuts is not None:
        ends = [left, x(cuts[0]), x(cuts[1]), right]
        bands = tuple(
            Band(
                name=name, x=start, y=edge, width=_round(end - start), height=baseline - edge,
                middle=_round((start + end) / 2), people=0, dots=(), more=0,
            )
            for name, start, end in zip(("bad", "normal", "good"), ends[:-1], ends[1:], strict=True)
            if end - start >= 1
        )  # fmt: skip
        title += f" Bad ends at {cuts[0]:.2f}, normal at {cuts[1]:.2f}."
    return Histogram(
        width=480,
        height=222 if bands else 200,
        left=left,
        right=right,
        edge=edge,
        baseline=baseline,
        bars=bars,
        ticks=ticks,
        places=marks,
        bands=bands,
        title=title,
    )


@dataclass(frozen=True)
class Track:
    """A percentile as a place on a line, the scalar counterpart of the sparkline."""

    width: float
    height: float
    x: float
    title: str


def percentile_track(percentile: float, score: float) -> Track:
    """A 108 x 36 line from percentile 0 to 100 with a mark."""
    return Track(
        width=108,
        height=36,
        x=_round(4 + min(max(percentile, 0.0), 100.0)),
        title=f"Score {score:.2f}, percentile {percentile:.0f}",
    )


# --- Comparisons and days ---


@dataclass(frozen=True)
class Outcomes:
    """Shares of a comparison's outcomes side by side, from a (left) to b (right), in per cent of the width."""

    parts: tuple[Bar, ...]
    title: str


def outcome_bar(shares: Mapping[str, float], *, title: str) -> Outcomes:
    """Parts of a 100 x 10 bar; `shares` in drawing order, added up to 1 here. Nothing is drawn for a zero."""
    total = math.fsum(shares.values())
    parts, x = [], 0.0
    for kind, share in shares.items():
        width = 100 * share / total if total else 0.0
        if width > 0:
            parts.append(
                Bar(
                    name=kind.replace("_", " "), kind=kind.replace("_", "-"), value=share, x=_round(x), y=0,
                    width=_round(width), height=10, middle=_round(x + width / 2), label_y=0,
                )
            )  # fmt: skip
        x += width
    return Outcomes(parts=tuple(parts), title=title)


@dataclass(frozen=True)
class DayBar:
    """One day: a lower bar of judgements and an upper one of levels."""

    day: date
    judgements: Bar
    levels: Bar
    total: int


@dataclass(frozen=True)
class Days:
    width: float
    height: float
    left: float
    right: float
    baseline: float
    bars: tuple[DayBar, ...]
    grid: tuple[Line, ...]
    labels: tuple[tuple[float, str, str], ...]
    title: str


def day_bars(days: Sequence[tuple[date, int, int]]) -> Days:
    """Labels per day, (day, judgements, levels), oldest first: 640 x 170 units, from 0 to a round number."""
    left, right, edge, baseline = 52.0, 636.0, 12.0, 140.0
    top = _round_up(max((judgements + levels for _, judgements, levels in days), default=0))
    width = (right - left) / max(1, len(days))

    def bar(index: int, value: int, below: int, kind: str) -> Bar:
        height, foot = (baseline - edge) * value / top, baseline - (baseline - edge) * below / top
        return Bar(
            name=kind, kind=kind, value=value, x=_round(left + (index + 0.12) * width), y=_round(foot - height),
            width=_round(0.76 * width), height=_round(height), middle=_round(left + (index + 0.5) * width), label_y=0,
        )  # fmt: skip

    bars = tuple(
        DayBar(
            day=day, judgements=bar(index, judgements, 0, "judgements"),
            levels=bar(index, levels, judgements, "levels"), total=judgements + levels,
        )
        for index, (day, judgements, levels) in enumerate(days)
    )  # fmt: skip
    grid = tuple(
        Line(position=_round(baseline - (baseline - edge) * value / top), label=f"{value:.0f}")
        for value in (0, top / 2, top)
    )
    labels: tuple[tuple[float, str, str], ...] = ()
    if days:
        spots = sorted({0, len(days) // 2, len(days) - 1})
        anchors = ["start", "middle", "end"] if len(spots) == 3 else ["middle"] * len(spots)
        labels = tuple(
            (bars[spot].judgements.middle, f"{days[spot][0].day} {days[spot][0]:%b}", anchor)
            for spot, anchor in zip(spots, anchors, strict=True)
        )
    judged, levelled = sum(row[1] for row in days), sum(row[2] for row in days)
    title = (
        f"Labels per day over {counted(len(days), 'day')}: {counted(judged, 'judgement')} and "
        f"{counted(levelled, 'level')}."
    )
    return Days(
        width=640,
        height=170,
        left=left,
        right=right,
        baseline=baseline,
        bars=bars,
        grid=grid,
        labels=labels,
        title=title,
    )


@dataclass(frozen=True)
class Interval:
    """A value with its interval on a line that runs from 0 to 100, and where the reference value lies."""

    low: float
    value: float
    high: float
    reference: float


def intervals(
    values: Sequence[tuple[float, float | None, float | None]], *, reference: float
) -> list[Interval]:
    """Intervals (value, low, high) on one scale that has the reference value too."""
    ends = [reference, *(end for each in values for end in each if end is not None)]
    low, width = min(ends), (max(ends) - min(ends)) or 1.0

    def at(value: float) -> float:
        return _round(3 + 94 * (value - low) / width)

    return [
        Interval(
            low=at(value if lower is None else lower), value=at(value), high=at(value if upper is None else upper),
            reference=at(reference),
        )
        for value, lower, upper in values
    ]  # fmt: skip


def _round_up(value: float) -> int:
    """The next of 2, 4, 6, 8, 10, 20, 40, 50, 60, 80, 100, 200 ...: even, so that its half is a number of labels."""
    scale = 1
    while True:
        for step in (1, 2, 4, 5, 6, 8):
            if step * scale % 2 == 0 and step * scale >= value:
                return step * scale
        scale *= 10


def _round(value: float) -> float:
    return round(value, 1)
