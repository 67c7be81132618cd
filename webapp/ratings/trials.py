"""What the page “Try it” shows of an answer: places, pictures, what "Score: 9" does, and the response to pick."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from webapp.corpus.models import Project
from webapp.ratings import charts, pictures
from webapp.ratings.models import Prediction
from webapp.ratings.probabilities import rating_quantile
from webapp.ratings.queries import outcome_of, percentiles_among
from webapp.ratings.trying import Trial
from webapp.training.models import ModelVersion

LOW = 0.1
CHOICES = {"mean": "mean rating", "low": f"{100 * LOW:.0f} % quantile (cautious)"}
# Shares of one comparison that are told apart: those that a page writes differently.
TOLD_APART = 0.0005
# Ratings and rewards that are not equal texts' rounding.
EQUAL = 1e-4
# Of the tokens: from here on it is said loudly that the model doesn't know them, as the `score` command says it.
UNKNOWN_SHARE = 0.05
# Shifts of E[s] and of percentiles that are called a shift.
MOVED, MOVED_PLACES = 0.05, 1.0


@dataclass(frozen=True)
class Tried:
    """One response of a trial."""

    number: int
    beginning: str
    rating: Prediction  # never saved
    low: float | None  # its LOW quantile; None for a scalar version
    against: list[float | None]  # P(preferred over each other), None at its own place
    mean_against: float | None
    place: int
    tied: bool
    percentile: float | None  # None where the version predicted nothing of the project
    percentile_claimed: float | None
    shift: float
    shift_words: str
    row: dict[str, Any]
    strip: charts.Strip | None
    histogram: charts.Histogram | None

    @property
    def unknown_share(self) -> float:
        """Of the tokens read, those that stand for characters which the base model doesn't know."""
        return self.row["unknown"] / max(1, self.row["tokens"])

    @property
    def mostly_known(self) -> bool:
        return self.unknown_share < UNKNOWN_SHARE


@dataclass(frozen=True)
class Result:
    """All responses, the best first, and the pick of best-of-n."""

    responses: list[Tried]
    in_order_of_boxes: list[Tried]
    by: str
    picked: list[Tried]  # several where they are equal
    ordinal: bool

    @property
    def others(self) -> int:
        return len(self.responses) - 1


def shown_trial(project: Project, version: ModelVersion, trial: Trial, by: str) -> Result:
    """The answer of a trial that has one; `by`: "mean" or "low", what best-of-n goes by. One query, two if scalar."""
    rows = trial.rows or []
    scores = [row["score"] for row in rows]
    among = percentiles_among(version, scores + [row["claimed"] for row in rows])
    ratings = [
        Prediction(
            version=version, score=row["score"], expected=row["expected"], spread=row["spread"], p=row["p"],
            percentile=percentile or 0.0, truncated=row["truncated"],
        )
        for row, percentile in zip(rows, among, strict=False)
    ]  # fmt: skip
    against = [[_preferred(version, one, other) for other in ratings] for one in ratings]
    means = [_mean(row) for row in against]
    top = charts.axis_top(pictures.rated(rating, None) for rating in ratings)
    ordinal = version.kind == "ordinal"
    tried = [
        Tried(
            number=trial.numbers[index],
            beginning=trial.beginnings[index],
            rating=rating,
            low=rating_quantile(rating.p, LOW) if rating.p else None,
            against=against[index],
            mean_against=means[index],
            place=1 + sum(_above(other, means[index]) for other in means),
            tied=sum(abs((other or 0) - (means[index] or 0)) < TOLD_APART for other in means) > 1,
            percentile=among[index],
            percentile_claimed=among[len(rows) + index],
            shift=rows[index]["claimed"] - rows[index]["score"],
            shift_words=_shift_words(rows[index], among[index], among[len(rows) + index]),
            row=rows[index],
            strip=pictures.strip_of(project, version, rating, None, top=top) if rating.p else None,
            histogram=None if rating.p else pictures.histogram_of(version, {"this response": rating.score}),
        )
        for index, rating in enumerate(ratings)
    ]
    by = by if by in CHOICES and ordinal else "mean"
    worth = [each.rating.score if by == "mean" else each.low or 0.0 for each in tried]
    return Result(
        responses=sorted(tried, key=lambda each: (each.place, each.number)),
        in_order_of_boxes=tried,
        by=by,
        picked=[each for each, value in zip(tried, worth, strict=True) if max(worth) - value < EQUAL],
        ordinal=ordinal,
    )


def _preferred(version: ModelVersion, one: Prediction, other: Prediction) -> float | None:
    """P(one preferred); None of a response against itself."""
    outcome = None if one is other else outcome_of(version, one, other)
    return None if outcome is None else outcome.preferred


def _mean(shares: Sequence[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else None


def _above(other: float | None, own: float | None) -> bool:
    return (other or 0.0) - (own or 0.0) >= TOLD_APART


def _shift_words(row: dict[str, Any], percentile: float | None, claimed: float | None) -> str:
    """What the claim does, in words: to the mean rating, or to the percentile where ratings have no unit."""
    if row["p"]:
        shift, least = row["claimed"] - row["score"], MOVED
    elif percentile is not None and claimed is not None:
        shift, least = claimed - percentile, MOVED_PLACES
    else:
        return ""
    return "hardly moves it" if abs(shift) < least else "raises it" if shift > 0 else "lowers it"
