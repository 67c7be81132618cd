"""Overview, responses and pairs: what the models believe beside what people said. For researchers and admins."""

from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.cache import patch_vary_headers
from django.views.decorators.http import require_POST

from webapp.corpus.access import project_for
from webapp.corpus.models import Method, Pair, Project, Response
from webapp.http import HtmxHttpRequest
from webapp.labels.models import Verdict
from webapp.labels.summaries import (
    Levels,
    Votes,
    coverage,
    level_counts,
    queue_state,
    vote_counts,
)
from webapp.ratings import charts, comparing, lists, pictures, stored, summaries
from webapp.ratings.ballots import TEXTS, ballot_of, both_orders, ratings_by_version
from webapp.ratings.leaderboard import MOST_AUTHORS, board_of, csv_of
from webapp.ratings.lists import ResponseRow, SideRow
from webapp.ratings.lists_query import PAIRS, RESPONSES, Listing, Query, sort_links
from webapp.ratings.models import JointVotes, Prediction
from webapp.ratings.paging import PER_PAGE, place_in
from webapp.ratings.probabilities import level_shares
from webapp.ratings.queries import (
    Shown,
    joint_by_version,
    joint_of,
    offered_authors,
    outcome_of,
    predictions_by_version,
    predictions_of,
    serving_versions,
    shown_version,
)
from webapp.training.models import ModelVersion
from webapp.training.triggers import next_trainings

# A response of UKPConvArg1 stands in some 30 pairs; beyond this many the Pairs page lists them.
PAIRS_SHOWN = 50
RUNS_SHOWN = 5


def overview(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    """Overview: labels, coverage, queue, agreement, serving versions and runs."""
    project = project_for(request, slug, "read")
    versions = serving_versions(project)
    found = stored.labels_of(project)
    labels = found.value
    cover = coverage(project)
    runs = list(project.runs.select_related("version")[:RUNS_SHOWN])
    context = {
        "found": found,
        "labels": labels,
        "coverage": cover,
        "queue": queue_state(project),
        "picture": pictures.days_of(labels.days) if labels else None,
        "alphas": [
            {
                "name": name,
                "metric": metric,
                "units": units,
                "alpha": alpha,
                "words": summaries.agreement_words(alpha.value, alpha.units),
                "limited": alpha.ratings >= summaries.AGREEMENT_LABELS,
            }
            for name, metric, units, alpha in (
                ("Verdicts", "nominal", "pairs", labels.agreement.verdicts),
                ("Levels", "ordinal", "responses", labels.agreement.levels),
            )
        ]
        if labels
        else [],
        "metrics": summaries.version_metrics(versions),
        "runs": runs,
        "upcoming": next_trainings(project),
        "steps": summaries.first_steps(
            project,
            request.access,  # type: ignore[attr-defined]
            items=cover.total,
            totals=labels.totals,
            runs=runs,
            serving=len(versions),
        )
        if labels
        else [],
    }
    return render(request, "ratings/project.html", context)


def responses(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    """All responses with what the chosen version predicts and which levels people gave."""
    project = project_for(request, slug, "read")
    shown = shown_version(project, request.GET)
    version = shown.version
    query = Query.of(request.GET, RESPONSES, rated=version is not None)
    page = lists.response_page(project, query, version)
    top = charts.axis_top(pictures.rated(row.prediction, None) for row in page.object_list)
    rows = [{"row": row, **_small_pictures(project, version, row, top)} for row in page.object_list]
    context = {
        **_choice(request, shown),
        **_filters(project, query, RESPONSES, version),
        "top": top,
        "page": page,
        "rows": rows,
    }
    return _partial(request, "ratings/responses.html", "rows", context)


def response_detail(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    """One response: the predicted distribution, people's levels, and every pair that it stands in."""
    project = project_for(request, slug, "read")
    response = get_object_or_404(project.responses.select_related("prompt"), pk=pk)
    shown = shown_version(project, request.GET)
    version = shown.version

    labels = list(
        response.quality_labels.current()
        .select_related("annotator", "judgement__pair")
        .order_by("-created_at")
    )
    levels = Levels(**_counted(label.level for label in labels))
    pairs = list(
        project.pairs.with_response(response.pk).with_texts().order_by("-judged", "pk")[: PAIRS_SHOWN + 1]
    )
    more_pairs = len(pairs) > PAIRS_SHOWN
    pairs = pairs[:PAIRS_SHOWN]
    votes = vote_counts(pair.pk for pair in pairs)
    predictions = predictions_of(
        version, {response.pk, *(pk for pair in pairs for pk in (pair.response_a_id, pair.response_b_id))}
    )
    prediction = predictions.get(response.pk)
    ballot = ballot_of(version, response.pk)
    joint = joint_of(version, [pair.pk for pair in pairs])

    query = Query.of(request.GET, RESPONSES, rated=version is not None)
    context = {
        **_choice(request, shown),
        "response": response,
        "place": place_in(lists.responses_ordered(project, query, version), response.pk),
        "prediction": prediction,
        "ballot": ballot,
        "others": ballot.others[: None if request.GET.get("votes") == "all" else TEXTS] if ballot else [],
        "provenance": _provenance(version, prediction, [label.created_at for label in labels]),
        "labels": labels,
        "levels": levels,
        "pairs": [
            _seen_from(response, pair, votes, predictions, version, joint.get(pair.pk)) for pair in pairs
        ],
        "more_pairs": more_pairs,
    }
    if version is not None and _scalar(version):
        context["histogram"] = (
            pictures.histogram_of(version, {"this response": prediction.score}) if prediction else None
        )
        if prediction and version.level_cuts:
            context["shares"] = level_shares(prediction.score, version.level_cuts)
    elif prediction is not None or levels.total:
        heard = ballot.ratings if ballot else ()
        context["strip"] = pictures.strip_of(project, version, prediction, levels, votes=heard)
    return _partial(request, "ratings/response.html", "rating", context)


def response_methods(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    """One response as each method's serving version rates it, on one scale, and as an older one did if asked."""
    project = project_for(request, slug, "read")
    response = get_object_or_404(project.responses.select_related("prompt"), pk=pk)
    shown = shown_version(project, request.GET)
    levels = level_counts([pk]).get(pk, Levels())
    found = predictions_by_version(shown.compared, [pk])
    predictions = {version: found.get(version.pk, {}).get(pk) for version in shown.compared}
    heard = ratings_by_version(shown.compared, [pk])
    top = charts.axis_top(pictures.rated(prediction, None) for prediction in predictions.values())
    query = Query.of(request.GET, RESPONSES, rated=shown.version is not None)
    context = {
        **_choice(request, shown),
        "response": response,
        "levels": levels,
        "top": top,
        "place": place_in(lists.responses_ordered(project, query, shown.version), pk),
        "rows": [
            {
                "version": version,
                "prediction": prediction,
                "votes": (votes := heard.get(version.pk, {}).get(pk, [])),
                "strip": prediction
                and prediction.p
                and pictures.strip_of(project, version, prediction, levels, votes=votes, top=top),
                "histogram": prediction
                and not prediction.p
                and pictures.histogram_of(version, {"this response": prediction.score}),
            }
            for version, prediction in predictions.items()
        ],
    }
    return _partial(request, "ratings/methods.html", "rating", context)


def pairs(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    """All pairs, sortable by disagreement among people and between people and the chosen version."""
    project = project_for(request, slug, "read")
    shown = shown_version(project, request.GET)
    version = shown.version
    query = Query.of(request.GET, PAIRS, rated=version is not None)
    page = lists.pair_page(project, query, version)
    top = charts.axis_top(
        pictures.rated(side.prediction, None) for row in page.object_list for side in row.sides
    )
    rows = [
        {
            "row": row,
            "votes_bar": pictures.votes_bar(row.votes),
            "outcome_bar": pictures.outcome_bar(row.outcome),
            "sides": [{"side": side, **_small_pictures(project, version, side, top)} for side in row.sides],
        }
        for row in page.object_list
    ]
    context = {
        **_choice(request, shown),
        **_filters(project, query, PAIRS, version),
        "top": top,
        "page": page,
        "rows": rows,
    }
    return _partial(request, "ratings/pairs.html", "rows", context)


def leaderboard(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    """The authors by people's judgements, plain and controlled for length, beside their ranks by the chosen version."""
    project = project_for(request, slug, "read")
    shown = shown_version(project, request.GET)
    found = stored.leaderboard_of(project, shown.version)
    standing = found.value.rows if found.value else []
    lines = pictures.strength_lines([row.plain.elo for row in standing])
    context = {
        **_choice(request, shown),
        "found": found,
        "board": found.value,
        "rows": list(zip(standing, lines, strict=True)),
        "most": MOST_AUTHORS,
    }
    return _partial(request, "ratings/leaderboard.html", "rows", context)


def leaderboard_csv(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    """The same as a file, of now."""
    project = project_for(request, slug, "read")
    version = shown_version(project, request.GET).version
    return HttpResponse(
        csv_of(board_of(project, version), version),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{project.slug}-leaderboard.csv"'},
    )


@require_POST
def count_again(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    """Have the worker add up anew what it stores of a large project."""
    project = project_for(request, slug, "read")
    stored.summaries_want(project)
    messages.success(request, "The labels are being counted again; look again in some seconds.")
    board = request.POST.get("page") == "leaderboard"
    return redirect("ratings:leaderboard" if board else "ratings:project", slug)


def pair_detail(request: HtmxHttpRequest, slug: str, pk: int) -> HttpResponse:
    """One pair: both strips back to back, every judgement, and the predicted outcomes of each method."""
    project = project_for(request, slug, "read")
    pair = get_object_or_404(project.pairs.with_texts(), pk=pk)
    shown = shown_version(project, request.GET)
    version = shown.version
    a, b = pair.response_a_id, pair.response_b_id

    judgements = list(pair.judgements.of_people().select_related("annotator").order_by("-created_at", "-pk"))
    current = [judgement for judgement in judgements if judgement.is_current and not judgement.retraction]
    votes = Votes(**_counted(judgement.verdict for judgement in current if judgement.verdict != Verdict.SKIP))
    levels = level_counts([a, b])
    by_version = predictions_by_version(shown.compared, [a, b])
    chosen = by_version.get(version.pk, {}) if version else {}
    joint = {key: found[pair.pk] for key, found in joint_by_version(shown.compared, [pair.pk]).items()}
    heard = ratings_by_version([version], [a, b]).get(version.pk, {}) if version else {}

    query = Query.of(request.GET, PAIRS, rated=version is not None)
    context = {
        **_choice(request, shown),
        "pair": pair,
        "place": place_in(lists.pairs_ordered(project, query, version), pair.pk),
        "sides": [
            SideRow("A", pair.response_a, chosen.get(a), levels.get(a, Levels()), heard.get(a, [])),
            SideRow("B", pair.response_b, chosen.get(b), levels.get(b, Levels()), heard.get(b, [])),
        ],
        "votes": votes,
        "votes_bar": pictures.votes_bar(votes),
        "current": current,
        "earlier": [judgement for judgement in judgements if judgement not in current],
        "machines": pair.machine_answers.select_related("machine__user"),
        "outcomes": [
            _predicted(each, by_version.get(each.pk, {}), a, b, joint.get(each.pk)) for each in shown.compared
        ],
        "orders": [both_orders(each, joint[each.pk]) for each in shown.compared if each.pk in joint],
    }
    if version is not None and _scalar(version):
        places = {name: chosen[key].score for name, key in (("A", a), ("B", b)) if key in chosen}
        context["histogram"] = pictures.histogram_of(version, places) if places else None
    elif chosen or levels:
        context["strip"] = charts.mirrored_strip(
            pictures.rated(chosen.get(a), levels.get(a), heard.get(a, ())),
            pictures.rated(chosen.get(b), levels.get(b), heard.get(b, ())),
            pictures.bounds_of(project, version, chosen.get(a) or chosen.get(b)),
        )
    return _partial(request, "ratings/pair.html", "rating", context)


def versions_compare(request: HtmxHttpRequest, slug: str) -> HttpResponse:
    """Two versions on the same held-out rows: measures, what turned round or moved, labels and settings between."""
    project = project_for(request, slug, "read")
    asked = comparing.versions_asked(project, request.GET.get("new", ""), request.GET.get("old", ""))
    new, old = asked.new, asked.old
    context: dict[str, Any] = {"versions": asked.every, "new": new, "old": old}
    if new is not None and old is not None:
        found = comparing.comparison(new, old, project)
        name = request.GET.get("show", "")
        name = name if name in comparing.LISTS else next(iter(comparing.LISTS))
        rows: dict[str, Any] = {
            "pairs": found.turned,
            "responses": comparing.moved(new, old),
            "judgements": comparing.new_judgements(new, old),
            "levels": comparing.new_levels(new, old),
        }
        pages = {each: Paginator(rows[each], PER_PAGE) for each in comparing.LISTS}
        page = pages[name].get_page(request.GET.get("page"))
        if name == "pairs":
            page.object_list = comparing.turned_rows(project, list(page.object_list))
        context |= {
            "found": found,
            "show": name,
            "page": page,
            "lists": [(each, words, pages[each].count) for each, words in comparing.LISTS.items()],
            "settings_apart": comparing.settings_apart(new, old),
            "ratings": new.kind == old.kind == "ordinal",
        }
    return render(request, "ratings/compare.html", context)


def _scalar(version: ModelVersion | None) -> bool:
    return version is not None and version.kind == "scalar"


def _choice(request: HtmxHttpRequest, shown: Shown) -> dict[str, Any]:
    """What parts.html#methods needs: the versions, the one in sight, and what an address keeps when it changes."""
    chosen = ("method", "version", "page", "at")
    return {
        "shown": shown,
        "version": shown.version,
        "kept": [(name, value) for name, value in request.GET.items() if value and name not in chosen],
    }


def _filters(
    project: Project, query: Query, listing: Listing, version: ModelVersion | None
) -> dict[str, Any]:
    """What parts.html#filters and #sorts need. Four to six queries, three while the labels stay the same."""
    rates_levels = version is not None and version.kind == "ordinal" and version.saw_levels
    offered = {name: words for name, words in listing.sorts.items() if name != "gap" or rates_levels}
    return {
        "query": query,
        "choices": listing.choices,
        "authors": offered_authors(project),
        "annotators": stored.offered_annotators(project, query.annotator),
        "sorts": sort_links(query, offered),
    }


def _small_pictures(
    project: Project, version: ModelVersion | None, row: ResponseRow | SideRow, top: float
) -> dict[str, Any]:
    """What stands beside a response in a list: its sparkline, or its percentile where the version is scalar."""
    spark = None
    if not _scalar(version):
        spark = pictures.spark_of(project, version, row.prediction, row.levels, top=top)
    return {"spark": spark, "track": pictures.track_of(row.prediction)}


def _counted(values: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return counts


def _seen_from(
    response: Response,
    pair: Pair,
    votes: dict[int, Votes],
    predictions: dict[int, Prediction],
    version: ModelVersion | None,
    joint: JointVotes | None,
) -> dict[str, Any]:
    """A pair as one of its responses sees it: a is "this response" wherever it stood."""
    is_a = pair.response_a_id == response.pk
    other = pair.response_b if is_a else pair.response_a
    said = votes.get(pair.pk, Votes())
    said = said if is_a else said.swapped
    a, b = predictions.get(pair.response_a_id), predictions.get(pair.response_b_id)
    outcome = outcome_of(version, a, b, joint) if version else None
    if outcome is not None and not is_a:
        outcome = outcome.swapped
    theirs = predictions.get(other.pk)
    return {
        "pair": pair,
        "other": other,
        "votes": said,
        "outcome": outcome,
        "votes_bar": pictures.votes_bar(said, a="won", b="lost"),
        "outcome_bar": pictures.outcome_bar(outcome, a="wins", b="loses"),
        "seen": theirs is not None and theirs.seen,
    }


def _predicted(
    version: ModelVersion, predictions: dict[int, Prediction], a: int, b: int, joint: JointVotes | None
) -> dict[str, Any]:
    """A row of the pair page's table: what one version predicts, and whether it has seen labels of the two."""
    both = [predictions[key] for key in (a, b) if key in predictions]
    outcome = outcome_of(version, predictions.get(a), predictions.get(b), joint)
    return {
        "version": version,
        "outcome": outcome,
        "bar": pictures.outcome_bar(outcome),
        "a": predictions.get(a),
        "b": predictions.get(b),
        "seen": any(prediction.seen for prediction in both),
    }


def _provenance(
    version: ModelVersion | None, prediction: Prediction | None, times: list[Any]
) -> dict[str, Any] | None:
    """Whether the shown model has seen this response's labels, and how many levels came in after its snapshot."""
    if version is None or prediction is None:
        return None
    snapshot = version.run.snapshot
    return {
        "split": prediction.split,
        "since": sum(time > snapshot.created_at for time in times) if snapshot else None,
        "method": Method(version.method).label,
    }


def _partial(request: HtmxHttpRequest, template: str, partial: str, context: dict[str, Any]) -> HttpResponse:
    """The whole page, or its partial where htmx swaps that alone; a cache keeps the two apart."""
    htmx = request.htmx
    part = htmx and not htmx.boosted and not htmx.history_restore_request
    answer = render(request, f"{template}#{partial}" if part else template, context)
    patch_vary_headers(answer, ["HX-Request"])
    return answer
