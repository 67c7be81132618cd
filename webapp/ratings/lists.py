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
from django.db.models.functions import Cast

from webapp.corpus.models import Pair, PairQuerySet, Project, Response
from webapp.labels.summaries import Levels, Votes, level_counts, vote_counts, with_levels
from webapp.parameters import int_parameter
from webapp.ratings.models import Prediction
from webapp.ratings.probabilities import Outcome
from webapp.ratings.queries import labels_state, outcome_of, predictions_of, preferences, tallies
from webapp.training.models import ModelVersion

PER_PAGE = 20

PAIR_STATES = {
    "": "all pairs",
    "split": "people disagree",
    "unanimous": "people agree",
    "several": "two judgements or more",
    "enough": "judged as often as wanted",
    "wanting": "fewer judgements than wanted",
    "unjudged": "no judgement yet",
}
PAIR_SORTS = {
    "people": "People disagree",
    "model": "Model against people",
    "judged": "Judgements",
    "added": "Added",
}
# States that only the votes themselves decide.
VOTE_STATES: dict[str, Callable[[Votes], bool]] = {
    "split": lambda votes: bool(votes.disagreement),
    "unanimous": lambda votes: votes.disagreement == 0,
    "several": lambda votes: votes.total >= 2,
}
RESPONSE_SORTS = {
    "score": "Predicted",
    "spread": "Uncertainty",
    "level": "People's level",
    "labels": "Number of levels",
    "added": "Added",
}


@dataclass(frozen=True)
class Query:
    """What a list was asked for: a search text, a state and a sort with its direction."""

    text: str
    state: str
    sort: str
    descending: bool
    page: int
    response: int | None = None

    @classmethod
    def of(cls, parameters: Any, *, sorts: Sequence[str], states: Sequence[str] = ("",)) -> "Query":
        """From a query string; what is unknown or malformed falls back to the first sort and to no filter."""
        asked = parameters.get("sort", "")
        name = asked.removeprefix("-")
        if name not in sorts:
            asked, name = f"-{sorts[0]}", sorts[0]
        state = parameters.get("state", "")
        return cls(
            text=parameters.get("q", "").replace("\x00", "").strip()[:200],
            state=state if state in states else "",
            sort=name,
            descending=asked.startswith("-"),
            page=int_parameter(parameters, "page") or 1,
            response=int_parameter(parameters, "response"),
        )

    @property
    def value(self) -> str:
        """The sort as the query string writes it."""
        return f"-{self.sort}" if self.descending else self.sort


def sort_links(query: Query, sorts: dict[str, str]) -> list[dict[str, Any]]:
    """Each sort with the value its link sets: the sort in use turns its direction round."""
    return [
        {
            "label": label,
            "current": name == query.sort,
            "descending": query.descending,
            "value": name if name == query.sort and query.descending else f"-{name}",
        }
        for name, label in sorts.items()
    ]


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


def pairs_matching(project: Project, query: Query) -> PairQuerySet:
    """The pairs a list asks for, as far as the pairs' own columns and texts decide."""
    pairs = Pair.objects.of(project)
    if query.response is not None:
        pairs = pairs.with_response(query.response)
    if query.text:
        # Found by response, then by pair: the texts are searched once each, not once per pair they stand in.
        texts = responses_matching(project, query.text).values("pk")
        pairs = pairs.filter(
            Q(response_a__in=texts) | Q(response_b__in=texts) | _says(query.text, "external_id")
        )
    if query.state == "unjudged":
        pairs = pairs.filter(judged=0)
    elif query.state == "enough":
        pairs = pairs.filter(judged__gte=F("wanted"))
    elif query.state == "wanting":
        pairs = pairs.filter(judged__lt=F("wanted"))
    elif query.state in VOTE_STATES:
        pairs = pairs.filter(judged__gte=2)
    return pairs


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
    matching = pairs_matching(project, query)
    if query.sort in ("people", "model") or query.state in VOTE_STATES:
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
    predicted = preferences(version, state) if query.sort == "model" and version else {}

    def value(pk: int, said: Votes) -> float | None:
        if query.sort == "people":
            return said.disagreement
        if query.sort == "model":
            return None if said.share is None or pk not in predicted else abs(said.share - predicted[pk][0])
        return said.total if query.sort == "judged" else pk

    known, unknown = [], []
    nobody = Votes()
    for pk in matching.order_by("pk").values_list("pk", flat=True):
        said = votes.get(pk, nobody)
        if query.state in VOTE_STATES and not VOTE_STATES[query.state](said):
            continue
        found = value(pk, said)
        if found is None:
            unknown.append(pk)
        else:
            unfair = query.sort == "model" and (said.total < 2 or predicted[pk][1])
            known.append((unfair, -found if query.descending else found, -said.total, pk))
    known.sort()
    return [pk for *_, pk in known] + unknown


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


def response_keys(project: Project, query: Query, version: ModelVersion | None) -> QuerySet[Any]:
    """Primary keys of the responses that a list has, in its order."""
    responses: QuerySet[Any] = responses_matching(project, query.text)
    if query.sort in ("score", "spread") and version is not None:
        rated = FilteredRelation("predictions", condition=Q(predictions__version=version))
        responses = responses.annotate(rated=rated)
        column = F(f"rated__{query.sort}")
    elif query.sort in ("level", "labels"):
        responses = with_levels(responses)
        column = F({"level": "mean_level", "labels": "levels"}[query.sort])
    else:
        column = F("pk")
    first = column.desc(nulls_last=True) if query.descending else column.asc(nulls_last=True)
    return responses.order_by(first, "pk").values_list("pk", flat=True)


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
