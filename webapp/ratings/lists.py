"""The long lists: pairs and responses, filtered, sorted and cut into pages by a constant number of queries.

A page is found in two steps: first the primary keys in their order, over narrow rows, then the texts of the few rows
that are shown. COUNT and ORDER BY never see a text (label-studio's lists of 10,000 rows died of that).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.db.models import Case, F, FilteredRelation, OrderBy, Q, QuerySet, When
from django.db.models.functions import Length

from webapp.corpus.models import Pair, PairQuerySet, Project, Response
from webapp.labels.summaries import Levels, Votes, judged_pairs, labelled_responses, level_counts, vote_counts
from webapp.ratings.lists_query import Query
from webapp.ratings.models import NOTHING, Prediction, ResponseTally, SearchText
from webapp.ratings.paging import ListPage, Ordered, page_of
from webapp.ratings.probabilities import Outcome
from webapp.ratings.queries import joint_of, outcome_of, predictions_of
from webapp.ratings.searching import says
from webapp.ratings.tallies import Freshness, catch_up, versions_compare
from webapp.training.models import ModelVersion

HELD_OUT = [Prediction.Split.HELD_OUT, Prediction.Split.CROSSFIT]

# What a pair's votes add up to: NOTHING is below 0.
VOTE_STATES = {
    "split": Q(tally__disagreement__gt=0),
    "unanimous": Q(tally__disagreement=0),
    "several": Q(tally__total__gte=2),
}
VOTE_SPLITS = {
    "even": Q(tally__weaker__gte=0.4),
    "leaning": Q(tally__weaker__gte=0.2, tally__weaker__lt=0.4),
    "clear": Q(tally__weaker__gte=0, tally__weaker__lt=0.2),
}


FEW = 2000


# --- Pairs ---


@dataclass(frozen=True)
class SideRow:
    """One response of a pair, with what the model predicts and which levels people gave.

    ratings: the votes that the prediction was counted from, on the pair's own page.
    """

    name: str
    response: Response
    prediction: Prediction | None
    levels: Levels
    ratings: Sequence[int] = ()


@dataclass(frozen=True)
class PairRow:
    """One pair of a list, with all that its row shows."""

    pair: Pair
    votes: Votes
    outcome: Outcome | None
    sides: tuple[SideRow, SideRow]

    @property
    def gap(self) -> float | None:
        """How far the model's P(a preferred) is from the people's share for a, 0..1."""
        share = self.votes.share
        return None if share is None or self.outcome is None else abs(share - self.outcome.preferred)

    @property
    def seen(self) -> bool:
        """Whether the model was trained on labels of one of the two."""
        predictions = [side.prediction for side in self.sides if side.prediction is not None]
        return any(prediction.seen for prediction in predictions)


def pairs_matching(project: Project, query: Query, version: ModelVersion | None) -> PairQuerySet:
    """The pairs a list asks for, as far as the database decides: all but what a pair's votes add up to.

    What concerns the responses is found by response, then by pair: once each, not once per pair they stand in.
    """
    pairs = Pair.objects.of(project)
    if query.response is not None:
        pairs = pairs.with_response(query.response)
    if query.text:
        found = SearchText.objects.filter(says(query.text, ""))
        texts = found.filter(response__isnull=False).values_list("response_id", flat=True)
        named = found.filter(pair__isnull=False).values_list("pair_id", flat=True)
        pairs = pairs.filter(_either(_few(texts)) | Q(pk__in=_few(named)))
    if query.level:
        tallies = ResponseTally.objects.filter(of_level(query.level), project=project)
        pairs = pairs.filter(_either(tallies.values("response_id")))
    by = [Response.objects.of(project).filter(author=name).values("pk") for name in _authors(query)]
    if len(by) == 2:
        pairs = pairs.filter(
            Q(response_a__in=by[0], response_b__in=by[1]) | Q(response_a__in=by[1], response_b__in=by[0])
        )
    elif by:
        pairs = pairs.filter(_either(by[0]))
    if query.annotator is not None:
        pairs = pairs.filter(pk__in=judged_pairs(project, query.annotator))
    if version is not None and query.split == "train":
        pairs = pairs.filter(_either(_rated(version, trained=True)))
    elif version is not None and query.split:
        fair = _rated(version, trained=False)
        pairs = pairs.filter(response_a__in=fair, response_b__in=fair)
    if query.state == "unjudged":
        pairs = pairs.filter(judged=0)
    elif query.state == "enough":
        pairs = pairs.filter(judged__gte=F("wanted"))
    elif query.state == "wanting":
        pairs = pairs.filter(judged__lt=F("wanted"))
    elif query.state:
        pairs = pairs.filter(VOTE_STATES[query.state])
    if query.votes:
        pairs = pairs.filter(VOTE_SPLITS[query.votes])
    return pairs


def _either(responses: QuerySet[Any] | list[int]) -> Q:
    """Pairs one of whose responses is among these."""
    return Q(response_a__in=responses) | Q(response_b__in=responses)


def _few(keys: QuerySet[Any]) -> QuerySet[Any] | list[int]:
    """The keys, where they are few: the database then looks each up in its indexes, and guesses nothing."""
    found = list(keys[: FEW + 1])
    return found if len(found) <= FEW else keys


def _authors(query: Query) -> list[str]:
    return [name for name in (query.author, query.rival) if name]


def _rated(version: ModelVersion, *, trained: bool) -> QuerySet[Any]:
    """Keys of the responses that a version rates, of those it was trained on or of the others."""
    seen = Q(split=Prediction.Split.TRAIN)
    return version.predictions.filter(seen if trained else ~seen).values("response_id")


def pair_page(project: Project, query: Query, version: ModelVersion | None) -> ListPage:
    """One page of pairs as rows, by a constant number of queries, however many pairs there are."""
    page = _page(project, query, version, pairs_ordered, Pair.objects.of(project))
    page.object_list = pair_rows(project, page.object_list, version)
    return page


def _page(
    project: Project,
    query: Query,
    version: ModelVersion | None,
    ordered: Callable[[Project, Query, ModelVersion | None], Ordered],
    every: QuerySet[Any],
) -> ListPage:
    """One page of keys."""
    total = None if query.narrowed else every.count()
    return page_of(ordered(project, query, version), number=query.page, at=query.at, total=total)


def _freshness(project: Project, query: Query, version: ModelVersion | None) -> Freshness:
    """Bring up to date what the list is sorted and narrowed by, or say what is missing; no query if it needs none."""
    fresh = catch_up(project) if query.adds_up else Freshness()
    if version is not None and query.compares and not versions_compare(project, version):
        return replace(fresh, comparing=True)
    return fresh


def pairs_ordered(project: Project, query: Query, version: ModelVersion | None) -> Ordered:
    """The pairs that a list has, in its order, as far as they are counted: see `_freshness`.

    Among equals those with more judgements come first, and last the pairs without a value. "Model against people"
    begins with what is a fair comparison: two votes or more, on labels that the model has not seen. Of one vote, or of
    what it was trained on, a distance says little; those come after.

    "model" compares orders: the response that most people prefer with the one that the model does. It leaves out pairs
    of one vote, those on which one of the two has no order, and those that the model was trained on, unless `trained`
    asks for them.
    """
    fresh = _freshness(project, query, version)
    pairs: QuerySet[Any] = pairs_matching(project, query, version)
    first = {"people": "disagreement", "even": "weaker"}.get(query.sort)
    compares = version is not None and query.compares
    if compares:
        gaps = FilteredRelation("gaps", condition=Q(gaps__version=version))
        pairs = pairs.alias(beside=gaps).filter(beside__rank__gte=0)
    if compares and query.model:
        agrees = Q(beside__agrees=-1 if query.model == "against" else 1, beside__total__gte=2)
        pairs = pairs.filter(agrees if query.trained else agrees & Q(beside__seen=False))
    if first:
        # The list is read from the table that it is sorted by.
        pairs = pairs.filter(tally__project=project)
        order = [_sorted(f"tally__{first}", query.descending), F("tally__total").desc()]
    elif compares and query.sort == "model":
        gap = F("beside__gap")
        order = [
            F("beside__rank").asc(), gap.desc() if query.descending else gap.asc(), F("beside__total").desc()
        ]  # fmt: skip
    else:
        column = F("judged" if query.sort == "judged" else "pk")
        order = [column.desc() if query.descending else column.asc()]
    return Ordered(pairs, order, fresh)


def _sorted(column: str, descending: bool) -> OrderBy:
    """By a column in which NOTHING comes last, whichever way."""
    if descending:
        return F(column).desc()
    return Case(When(**{column: NOTHING}, then=None), default=F(column)).asc(nulls_last=True)


def pair_rows(project: Project, keys: Sequence[int], version: ModelVersion | None) -> list[PairRow]:
    """Rows for the pairs with these keys, in this order. Four queries; three without a version, five if it votes."""
    pairs = {pair.pk: pair for pair in Pair.objects.of(project).with_texts().filter(pk__in=keys)}
    votes = vote_counts(keys)
    responses = {pk for pair in pairs.values() for pk in (pair.response_a_id, pair.response_b_id)}
    predictions, joint = predictions_of(version, responses), joint_of(version, keys)
    levels = level_counts(responses)
    rows = []
    for pk in keys:
        if (pair := pairs.get(pk)) is None:
            continue
        a, b = predictions.get(pair.response_a_id), predictions.get(pair.response_b_id)
        rows.append(
            PairRow(
                pair=pair,
                votes=votes.get(pk, Votes()),
                outcome=outcome_of(version, a, b, joint.get(pk)) if version else None,
                sides=(
                    SideRow("A", pair.response_a, a, levels.get(pair.response_a_id, Levels())),
                    SideRow("B", pair.response_b, b, levels.get(pair.response_b_id, Levels())),
                ),
            )
        )
    return rows


# --- Responses ---


@dataclass(frozen=True)
class ResponseRow:
    response: Response
    prediction: Prediction | None
    levels: Levels


def responses_matching(project: Project, text: str) -> QuerySet[Response]:
    """Responses whose text, author, id or prompt contains the text; all of the project's for an empty one."""
    responses = Response.objects.of(project)
    return responses.filter(says(text, "sought__")) if text else responses


def response_page(project: Project, query: Query, version: ModelVersion | None) -> ListPage:
    """One page of responses as rows. At most five queries, however many responses there are."""
    page = _page(project, query, version, responses_ordered, Response.objects.of(project))
    keys = page.object_list
    found = Response.objects.of(project).select_related("prompt").in_bulk(keys)
    predictions, levels = predictions_of(version, keys), level_counts(keys)
    page.object_list = [
        ResponseRow(response=found[pk], prediction=predictions.get(pk), levels=levels.get(pk, Levels()))
        for pk in keys
        if pk in found
    ]
    return page


def responses_ordered(project: Project, query: Query, version: ModelVersion | None) -> Ordered:
    """The responses that a list has, in its order, as far as they are counted: see `_freshness`."""
    fresh = _freshness(project, query, version)
    responses: QuerySet[Any] = responses_matching(project, query.text)
    if query.state:
        responses = responses.filter(tally__labelled=query.state == "labelled")
    if query.level:
        responses = responses.filter(of_level(query.level, "tally__"))
    if query.author:
        responses = responses.filter(author=query.author)
    if query.annotator is not None:
        responses = responses.filter(pk__in=labelled_responses(project, query.annotator))
    if version is not None and query.split == "unrated":
        responses = responses.exclude(pk__in=version.predictions.values("response_id"))
    elif version is not None and query.split:
        splits = HELD_OUT if query.split == "held_out" else [query.split]
        responses = responses.filter(
            pk__in=version.predictions.filter(split__in=splits).values("response_id")
        )
    column: Any
    if query.sort == "gap" and version is not None:
        gaps = FilteredRelation("gaps", condition=Q(gaps__version=version))
        responses = responses.alias(beside=gaps).filter(beside__rank__gte=0)
        gap = F("beside__gap")
        order = [F("beside__rank").asc(), gap.desc() if query.descending else gap.asc()]
    elif query.sort in ("level", "labels", "split"):
        column = {"level": "mean", "labels": "total", "split": "variance"}[query.sort]
        responses = responses.filter(tally__project=project)
        order = [_sorted(f"tally__{column}", query.descending)]
    else:
        nullable = None
        if query.sort in ("score", "spread") and version is not None:
            rated = FilteredRelation("predictions", condition=Q(predictions__version=version))
            responses = responses.alias(rated=rated)
            column = F(f"rated__{query.sort}")
            if version.predictions.count() < Response.objects.of(project).count():
                nullable = True
            else:
                # All are rated: the database may then read them in the order of its index.
                responses = responses.filter(rated__version=version)
        elif query.sort == "length":
            column = Length("text")
        else:
            column = F("author" if query.sort == "author" else "pk")
        order = [column.desc(nulls_last=nullable) if query.descending else column.asc(nulls_last=nullable)]
    return Ordered(responses, order, fresh)


def of_level(level: str, path: str = "") -> Q:
    """Those of a level by most people, those that people disagree on ("disputed"), or those without one ("none").

    `path`: from the rows to their ResponseTally.
    """
    if level == "none":
        return Q(**{f"{path}total": 0})
    if level == "disputed":
        return Q(**{f"{path}variance__gt": 0})
    return Q(**{f"{path}{level}__gt": F(f"{path}total") - F(f"{path}{level}")})
