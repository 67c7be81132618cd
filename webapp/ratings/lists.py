"""The long lists: pairs and responses, filtered, sorted and cut into pages by a constant number of queries.

A page is found in two steps: first the primary keys in their order, over narrow rows, then the texts of the few rows
that are shown. COUNT and ORDER BY never see a text (label-studio's lists of 10,000 rows died of that).
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.core.paginator import Page, Paginator
from django.db.models import F, FilteredRelation, Q, QuerySet, TextField
from django.db.models.functions import Cast, Length

from webapp.corpus.models import Pair, PairQuerySet, Project, Response
from webapp.labels.models import QualityLabel
from webapp.labels.summaries import (
    Levels,
    Votes,
    judged_pairs,
    labelled_responses,
    level_counts,
    responses_of_level,
    vote_counts,
    with_levels,
)
from webapp.ratings.lists_query import Query
from webapp.ratings.models import Prediction
from webapp.ratings.probabilities import Outcome
from webapp.ratings.queries import (
    labels_state,
    level_gaps,
    outcome_of,
    predictions_of,
    preferences,
    tallies,
)
from webapp.training.models import ModelVersion

PER_PAGE = 20
HELD_OUT = [Prediction.Split.HELD_OUT, Prediction.Split.CROSSFIT]

# What only the votes themselves decide.
VOTE_STATES: dict[str, Callable[[Votes], bool]] = {
    "split": lambda votes: bool(votes.disagreement),
    "unanimous": lambda votes: votes.disagreement == 0,
    "several": lambda votes: votes.total >= 2,
}
VOTE_SPLITS: dict[str, Callable[[float], bool]] = {
    "even": lambda weaker: weaker >= 0.4,
    "leaning": lambda weaker: 0.2 <= weaker < 0.4,
    "clear": lambda weaker: weaker < 0.2,
}


def _says(text: str, *paths: str) -> Q:
    """Rows one of whose text columns contains the text."""
    found = Q()
    for path in paths:
        found |= Q(**{f"{path}__icontains": text})
    return found


def _prompt_says(text: str, path: str) -> Q:
    """Rows whose prompt contains the text. JSON is stored with escapes in one database and without in the other."""
    spellings = {json.dumps(text, ensure_ascii=ascii)[1:-1] for ascii in (True, False)}
    return Q(*[(f"{path}__icontains", spelling) for spelling in sorted(spellings)], _connector=Q.OR)


# --- Pairs ---


@dataclass(frozen=True)
class SideRow:
    """One response of a pair, with what the model predicts and which levels people gave."""

    name: str
    response: Response
    prediction: Prediction | None
    levels: Levels


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
        texts = responses_matching(project, query.text).values("pk")
        pairs = pairs.filter(_either(texts) | _says(query.text, "external_id"))
    if query.level:
        pairs = pairs.filter(
            _either(_of_level(Response.objects.of(project), project, query.level).values("pk"))
        )
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
    elif _by_votes_alone(query):
        pairs = pairs.filter(judged__gte=2)
    return pairs


def _either(responses: QuerySet[Any]) -> Q:
    """Pairs one of whose responses is among these."""
    return Q(response_a__in=responses) | Q(response_b__in=responses)


def _authors(query: Query) -> list[str]:
    return [name for name in (query.author, query.rival) if name]


def _rated(version: ModelVersion, *, trained: bool) -> QuerySet[Any]:
    """Keys of the responses that a version rates, of those it was trained on or of the others."""
    seen = Q(split=Prediction.Split.TRAIN)
    return version.predictions.filter(seen if trained else ~seen).values("response_id")


def _by_votes_alone(query: Query) -> bool:
    """Whether only the votes of a pair decide if it is in the list; two are needed for any of that."""
    return bool(query.state in VOTE_STATES or query.votes or query.model)


def pair_page(project: Project, query: Query, version: ModelVersion | None) -> Page[Any]:
    """One page of pairs as rows, by ten queries at most, however many pairs there are.

    The pairs' own columns are sorted by the database. Disagreement is worked out here from one narrow row of votes per
    pair, which is kept until the next label: on 17,000 pairs with 84,000 votes a third of what GROUP BY with ORDER BY
    over the same counts takes, and nearly nothing on the next page.
    """
    page = Paginator(pair_keys(project, query, version), PER_PAGE).get_page(query.page)
    page.object_list = pair_rows(project, list(page.object_list), version)
    return page


def pair_keys(project: Project, query: Query, version: ModelVersion | None) -> Any:
    """Primary keys of the pairs that a list has, in its order: a list, or a query set that was not yet asked."""
    matching = pairs_matching(project, query, version)
    if query.sort in ("people", "even", "model") or _by_votes_alone(query):
        return _by_votes(project, matching, query, version)
    column = F({"judged": "judged", "added": "pk"}[query.sort])
    first = column.desc() if query.descending else column.asc()
    return matching.order_by(first, "pk").values_list("pk", flat=True)


def _by_votes(
    project: Project, matching: QuerySet[Pair], query: Query, version: ModelVersion | None
) -> list[int]:
    """Keys of the pairs, sorted; more judgements first among equals, and last the pairs without a value.

    "Model against people" begins with what is a fair comparison: two votes or more, on labels that the model has not
    seen. Of one vote, or of what it was trained on, a distance says little; those come after.
    """
    state = labels_state(project)
    votes = tallies(project, state)
    compares = query.sort == "model" or query.model
    predicted = preferences(version, state) if compares and version else {}

    def value(pk: int, said: Votes) -> float | None:
        if query.sort == "people":
            return said.disagreement
        if query.sort == "even":
            return said.weaker
        if query.sort == "model":
            return None if said.share is None or pk not in predicted else abs(said.share - predicted[pk][0])
        return said.total if query.sort == "judged" else pk

    known, unknown = [], []
    nobody = Votes()
    for pk in matching.order_by("pk").values_list("pk", flat=True):
        said = votes.get(pk, nobody)
        if not _votes_match(query, said, predicted.get(pk)):
            continue
        found = value(pk, said)
        if found is None:
            unknown.append(pk)
        else:
            unfair = query.sort == "model" and (said.total < 2 or predicted[pk][1])
            known.append((unfair, -found if query.descending else found, -said.total, pk))
    known.sort()
    return [pk for *_, pk in known] + unknown


def _votes_match(query: Query, said: Votes, predicted: tuple[float, bool] | None) -> bool:
    """Whether a pair's votes, and what the model says of it, are as asked for.

    "model" compares orders: the response that most people prefer with the one that the model does. It leaves out
    pairs of one vote, those on which one of the two has no order, and those that the model was trained on, unless
    `trained` asks for them.
    """
    if query.state in VOTE_STATES and not VOTE_STATES[query.state](said):
        return False
    if query.votes and (said.weaker is None or not VOTE_SPLITS[query.votes](said.weaker)):
        return False
    if query.model:
        if predicted is None or said.share is None or said.total < 2 or (predicted[1] and not query.trained):
            return False
        product = (said.share - 0.5) * (predicted[0] - 0.5)
        return product < 0 if query.model == "against" else product > 0
    return True


def pair_rows(project: Project, keys: Sequence[int], version: ModelVersion | None) -> list[PairRow]:
    """Rows for the pairs with these keys, in this order. Four queries, three without a version."""
    pairs = {pair.pk: pair for pair in Pair.objects.of(project).with_texts().filter(pk__in=keys)}
    votes = vote_counts(keys)
    responses = {pk for pair in pairs.values() for pk in (pair.response_a_id, pair.response_b_id)}
    predictions = predictions_of(version, responses)
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
                outcome=outcome_of(version, a, b) if version else None,
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
    if not text:
        return responses
    said = _says(text, "text", "author", "external_id", "prompt__external_id") | _prompt_says(
        text, "prompt_text"
    )
    return responses.annotate(prompt_text=Cast("prompt__messages", TextField())).filter(said)


def response_page(project: Project, query: Query, version: ModelVersion | None) -> Page[Any]:
    """One page of responses as rows. At most five queries, however many responses there are."""
    page = Paginator(response_keys(project, query, version), PER_PAGE).get_page(query.page)
    keys = list(page.object_list)
    found = Response.objects.of(project).select_related("prompt").in_bulk(keys)
    predictions, levels = predictions_of(version, keys), level_counts(keys)
    page.object_list = [
        ResponseRow(response=found[pk], prediction=predictions.get(pk), levels=levels.get(pk, Levels()))
        for pk in keys
        if pk in found
    ]
    return page


def response_keys(project: Project, query: Query, version: ModelVersion | None) -> Any:
    """Primary keys of the responses that a list has, in its order: a list, or a query set that was not yet asked."""
    responses: QuerySet[Any] = responses_matching(project, query.text)
    if query.state == "labelled":
        responses = responses.filter(labelled_responses(project))
    elif query.state == "unlabelled":
        responses = responses.exclude(labelled_responses(project))
    if query.level:
        responses = _of_level(responses, project, query.level)
    if query.author:
        responses = responses.filter(author=query.author)
    if query.annotator is not None:
        responses = responses.filter(labelled_responses(project, query.annotator))
    if version is not None and query.split == "unrated":
        responses = responses.exclude(pk__in=version.predictions.values("response_id"))
    elif version is not None and query.split:
        splits = HELD_OUT if query.split == "held_out" else [query.split]
        responses = responses.filter(
            pk__in=version.predictions.filter(split__in=splits).values("response_id")
        )
    if query.sort == "gap" and version is not None:
        return _by_gap(project, responses, query, version)
    if query.sort in ("score", "spread") and version is not None:
        rated = FilteredRelation("predictions", condition=Q(predictions__version=version))
        responses = responses.annotate(rated=rated)
        column: Any = F(f"rated__{query.sort}")
    elif query.sort in ("level", "labels", "split"):
        responses = with_levels(responses)
        column = F({"level": "mean_level", "labels": "levels", "split": "level_variance"}[query.sort])
    elif query.sort == "length":
        column = Length("text")
    else:
        column = F("author" if query.sort == "author" else "pk")
    first = column.desc(nulls_last=True) if query.descending else column.asc(nulls_last=True)
    return responses.order_by(first, "pk").values_list("pk", flat=True)


def _of_level(responses: QuerySet[Any], project: Project, level: str) -> QuerySet[Any]:
    """Those of a level by most people, those that people disagree on ("disputed"), or those without one ("none")."""
    if level == "none":
        labelled = QualityLabel.objects.of(project).current()
        return responses.exclude(pk__in=labelled.values("response_id"))
    return responses.filter(pk__in=responses_of_level(project, level))


def _by_gap(project: Project, responses: QuerySet[Any], query: Query, version: ModelVersion) -> list[int]:
    """Keys of the responses by how far the model's level is from the people's; what it was trained on after what it
    was not, and last those of which one has said nothing.
    """
    gaps = level_gaps(version, labels_state(project))
    known, unknown = [], []
    for pk in responses.order_by("pk").values_list("pk", flat=True):
        if pk in gaps:
            gap, seen = gaps[pk]
            known.append((seen, -gap if query.descending else gap, pk))
        else:
            unknown.append(pk)
    return [pk for *_, pk in sorted(known)] + unknown


# --- One of a list ---


@dataclass(frozen=True)
class Place:
    """Where one response or pair stands in the list that it was opened from, and its neighbours' keys there."""

    number: int
    total: int
    previous: int | None
    next: int | None

    @property
    def page(self) -> int:
        """The page of the list that shows it."""
        return (self.number - 1) // PER_PAGE + 1


def place_in(keys: Iterable[int], pk: int) -> Place | None:
    """The place of a key among the keys of a list; None if the list hasn't got it. One query, over keys alone."""
    ordered = list(keys)
    try:
        index = ordered.index(pk)
    except ValueError:
        return None
    return Place(
        number=index + 1,
        total=len(ordered),
        previous=ordered[index - 1] if index else None,
        next=ordered[index + 1] if index + 1 < len(ordered) else None,
    )
