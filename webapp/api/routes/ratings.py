"""What versions predict of responses, beside the levels that people gave. For researchers and admins."""

from typing import Annotated, Any, Literal

from django.shortcuts import get_object_or_404
from ninja import Field, Query, Schema

from webapp.api.auth import ApiRequest, token
from webapp.api.paging import LIMIT, Cursor, Limit, Page, paged
from webapp.api.routers import ProjectRouter
from webapp.corpus.access import project_for
from webapp.labels.models import LEVELS
from webapp.labels.summaries import level_counts
from webapp.ratings.ballots import ratings_by_version
from webapp.ratings.models import Prediction
from webapp.ratings.queries import serving_versions
from webapp.training.models import ModelVersion

router = ProjectRouter(tags=["predictions"])

SplitName = Literal["train", "held_out", "crossfit", "unlabelled"]


class PredictionRow(Schema):
    """One version's rating of one response. `p`: probabilities of the ratings 1 to 9; `expected`, `spread`: their mean
    and standard deviation. All three are null for versions with one number.

    `percentile`: share of the project's responses that the version scores lower. `votes`: the ratings that a generative
    version counted `p` from.
    """

    id: int
    response: int
    external_id: str
    score: float
    expected: float | None
    spread: float | None
    p: list[float] | None
    votes: list[int] | None
    percentile: float
    split: Annotated[
        SplitName,
        Field(
            description="train: the version was trained on labels of this response, so don't grade it by them; "
            "held_out: it was not; crossfit: it was, but this row is by a fold that was not; unlabelled: there were "
            "none."
        ),
    ]
    split_words: str
    truncated: bool


class People(Schema):
    """How many people gave each level."""

    bad: int
    normal: int
    good: int


class RatedRow(PredictionRow):
    people: People


class VersionRating(PredictionRow):
    version: int
    version_name: str


class ResponseRatings(Schema):
    """What the serving versions predict of one response, and what people said of it."""

    response: int
    external_id: str
    people: People
    predictions: list[VersionRating]


def _row(row: Prediction, votes: list[int] | None) -> dict[str, Any]:
    names = ("score", "expected", "spread", "p", "percentile", "split", "truncated")
    return {
        **{name: getattr(row, name) for name in names},
        "id": row.pk,
        "response": row.response_id,
        "external_id": row.response.external_id,
        "votes": votes,
        "split_words": row.get_split_display(),
    }


def _people(counts: dict[int, Any], response: int) -> dict[str, int]:
    found = counts.get(response)
    return {level: getattr(found, level) if found is not None else 0 for level in LEVELS}


@router.get(
    "versions/{key:pk}/predictions",
    auth=token("read"),
    response=Page[RatedRow],
    summary="What a version predicts",
)
def predictions(
    request: ApiRequest,
    slug: str,
    pk: int,
    split: Annotated[SplitName | None, Query(description="Only these.")] = None,
    limit: Limit = LIMIT,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """Of all responses, in the order in which they were predicted, beside people's levels."""
    project = project_for(request, slug, "read")
    version: ModelVersion = get_object_or_404(project.versions, pk=pk)
    rows = version.predictions.select_related("response")
    if split is not None:
        rows = rows.filter(split=split)

    def shown(page: list[Prediction]) -> list[dict[str, Any]]:
        keys = [row.response_id for row in page]
        people, votes = level_counts(keys), ratings_by_version([version], keys).get(version.pk, {})
        return [
            {**_row(row, votes.get(row.response_id)), "people": _people(people, row.response_id)}
            for row in page
        ]

    return paged(rows, cursor, limit, oldest_first=True, shown=shown)


@router.get(
    "responses/{key:pk}/predictions",
    auth=token("read"),
    response=ResponseRatings,
    summary="What the versions predict of one response",
)
def response_predictions(request: ApiRequest, slug: str, pk: int) -> dict[str, Any]:
    """Of each method the version that serves, the main method first."""
    project = project_for(request, slug, "read")
    response = get_object_or_404(project.responses, pk=pk)
    serving = {version.pk: version for version in serving_versions(project)}
    order = list(serving)
    rows = Prediction.objects.filter(version__in=order, response=response).select_related("response")
    votes = ratings_by_version(serving.values(), [pk])
    return {
        "response": pk,
        "external_id": response.external_id,
        "people": _people(level_counts([pk]), pk),
        "predictions": [
            {
                **_row(row, votes.get(row.version_id, {}).get(pk)),
                "version": row.version_id,
                "version_name": serving[row.version_id].address,
            }
            for row in sorted(rows, key=lambda row: order.index(row.version_id))
        ],
    }
