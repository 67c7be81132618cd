"""From rows to pictures: what the pages hand to charts.py."""

from collections.abc import Mapping, Sequence

from webapp.corpus.models import Project
from webapp.labels.strengths import Estimate
from webapp.labels.summaries import Day, Levels, Votes
from webapp.ratings import charts
from webapp.ratings.models import Prediction
from webapp.ratings.probabilities import Outcome
from webapp.ratings.queries import score_distribution
from webapp.training.models import ModelVersion


def rated(prediction: Prediction | None, levels: Levels | None, votes: Sequence[int] = ()) -> charts.Rated:
    """What a rating strip shows of a response. A scalar prediction has no place on the 1..9 axis.

    `votes`: the ratings that the prediction was counted from, if it was.
    """
    people = levels.counts if levels else {}
    if prediction is None or not prediction.p:
        return charts.Rated(people=people)
    return charts.Rated(
        p=prediction.p, expected=prediction.expected, spread=prediction.spread, people=people, votes=votes
    )


def bounds_of(
    project: Project, version: ModelVersion | None, prediction: Prediction | None
) -> charts.Bounds | None:
    """The bands of a strip: None under the ratings of a version that saw no levels. People's dots alone have theirs."""
    relative = prediction is not None and version is not None and not version.saw_levels
    return None if relative else project.level_bounds


def strip_of(
    project: Project,
    version: ModelVersion | None,
    prediction: Prediction | None,
    levels: Levels | None,
    *,
    votes: Sequence[int] = (),
    top: float | None = None,
) -> charts.Strip:
    return charts.rating_strip(
        rated(prediction, levels, votes), bounds_of(project, version, prediction), top=top
    )


def spark_of(
    project: Project,
    version: ModelVersion | None,
    prediction: Prediction | None,
    levels: Levels | None,
    *,
    top: float,
) -> charts.Strip | None:
    """The sparkline; None where there is neither a distribution nor a level from people."""
    if (prediction is None or not prediction.p) and not (levels and levels.total):
        return None
    return charts.sparkline(rated(prediction, levels), bounds_of(project, version, prediction), top=top)


def track_of(prediction: Prediction | None) -> charts.Track | None:
    """The percentile line of a scalar prediction; None for others."""
    if prediction is None or prediction.p:
        return None
    return charts.percentile_track(prediction.percentile, prediction.score)


def histogram_of(version: ModelVersion, places: Mapping[str, float]) -> charts.Histogram | None:
    """All scores of a scalar version with some of them marked; None before it has any."""
    scores = score_distribution(version)
    if not scores:
        return None
    return charts.score_histogram(scores.low, scores.high, scores.counts, places, version.level_cuts)


def votes_bar(votes: Votes, *, a: str = "A", b: str = "B") -> charts.Outcomes | None:
    """People's outcomes of a pair from a (left) to b (right); None without votes."""
    if not votes.total:
        return None
    title = f"People: {votes.a} {a}, {votes.tie} tie, {votes.both_bad} both bad, {votes.b} {b}"
    return charts.outcome_bar(
        {"a": votes.a, "tie": votes.tie, "both_bad": votes.both_bad, "b": votes.b}, title=title
    )


def outcome_bar(outcome: Outcome | None, *, a: str = "A", b: str = "B") -> charts.Outcomes | None:
    """Predicted outcomes of a pair, drawn like the people's; None without a prediction."""
    if outcome is None:
        return None
    title = f"Model: {a} {100 * outcome.a:.0f} %, tie {100 * outcome.tie:.0f} %, {b} {100 * outcome.b:.0f} %"
    return charts.outcome_bar({"a": outcome.a, "tie": outcome.tie, "b": outcome.b}, title=title)


def days_of(days: list[Day]) -> charts.Days:
    return charts.day_bars([(day.day, day.judgements, day.levels) for day in days])


def strength_lines(estimates: Sequence[Estimate]) -> list[charts.Interval]:
    """Strengths on one scale, with the average author's 1000 marked."""
    return charts.intervals([(each.value, each.low, each.high) for each in estimates], reference=1000)
