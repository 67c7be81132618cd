"""Reads that several pages share: which versions serve, what they predict, and what that says about pairs.

A version's predictions never change; labels are only added, and so are predictions, when a version is measured again.
So what is computed from all of them is kept in the process's cache; the key names the version and the newest labels.
The key has times and digests too, so that two databases with one cache never take each other's entries.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from django.core.cache import caches
from django.db.models import Count, Q

from webapp.corpus.models import Method, Pair, Project, Response
from webapp.corpus.options import GENERATIVE
from webapp.labels.names import annotator_names
from webapp.labels.summaries import Votes, label_counts_by, newest_labels, vote_tallies
from webapp.ratings.charts import score_bins
from webapp.ratings.models import JointVotes, Prediction
from webapp.ratings.probabilities import Outcome, joint_outcome, ordinal_outcome, scalar_outcome
from webapp.training.models import ModelVersion

CACHE_SECONDS = 60 * 60
# Scores a histogram is made of: the lowest primary keys of a larger project, which are no particular responses.
HISTOGRAM_SCORES = 50_000
# Names in a menu. Where there are more authors, one writes the name; of more annotators the menu has the busiest.
MENU = 100

T = TypeVar("T")


def kept(key: str, make: Callable[[], T]) -> T:
    """What `make` returns, kept in the process's cache under the key."""
    cache = caches["local"]
    found: T | None = cache.get(key)
    if found is None:
        found = make()
        cache.set(key, found, CACHE_SECONDS)
    return found


def labels_state(project: Project) -> str:
    """Names the present state of a project's labels; what is added up from them may be kept under it. Two queries."""
    judgement, level = newest_labels(project)
    return f"{project.pk}:{project.created_at.timestamp()}:{judgement}:{level}"


def serving_versions(project: Project) -> list[ModelVersion]:
    """The serving version of each method: the project's main method first, then in the order it names. One query."""
    order = [project.main_method, *project.methods, *Method.values]
    versions = project.versions.serving().select_related("run__snapshot")
    return sorted(versions, key=lambda version: order.index(version.method))


@dataclass(frozen=True)
class Shown:
    """Which version a page shows, beside those it offers. The choice is in the address bar: method or version."""

    serving: list[ModelVersion]
    version: ModelVersion | None
    every: list[ModelVersion]  # all of the project, the newest of each method first

    @property
    def older(self) -> ModelVersion | None:
        """The version in sight where it doesn't serve."""
        return None if self.version in self.serving else self.version

    @property
    def compared(self) -> list[ModelVersion]:
        """The serving versions, after the older one in sight."""
        return [self.older, *self.serving] if self.older else self.serving

    @property
    def parameter(self) -> tuple[str, str]:
        """What an address says to show the same version: its name and value, both empty without one."""
        if self.version is None:
            return "", ""
        return ("version", self.version.address) if self.older else ("method", self.version.method)

    @property
    def asked(self) -> str:
        name, value = self.parameter
        return f"{name}={value}" if name else ""


def shown_version(project: Project, parameters: Mapping[str, str]) -> Shown:
    """The version that was asked for, else the serving one of the method asked for, else the main one.

    Two queries, three for a version that doesn't serve.
    """
    serving = serving_versions(project)
    every = list(
        project.versions.only("method", "number", "is_serving", "project").order_by("method", "-number")
    )
    wanted = parameters.get("version", "")
    known = next((version for version in every if version.address == wanted), None)
    if known is not None and not known.is_serving:
        found = version_with_snapshot(project, known.pk)
    else:
        method = known.method if known else parameters.get("method", "")
        found = next((version for version in serving if version.method == method), None)
    return Shown(serving, found or next(iter(serving), None), every)


def versions_to_try(
    project: Project, wanted: str
) -> tuple[list[ModelVersion], list[ModelVersion], list[ModelVersion]]:
    """The versions whose files are on the disk, those whose are gone, and those that write their judgement. One query.

    First the one asked for by its address, then those that serve, the main method's before others, then newer ones.
    A training that still runs has no version yet.
    """
    order = [project.main_method, *project.methods, *Method.values]
    every = project.versions.only("project", "run", "method", "number", "is_serving", "packed_at")
    ranked = sorted(
        every,
        key=lambda version: (
            version.address != wanted, not version.is_serving, order.index(version.method), -version.number,
        ),
    )  # fmt: skip
    writing = [each for each in ranked if each.method in GENERATIVE]
    others = [each for each in ranked if each.method not in GENERATIVE]
    return [each for each in others if each.is_there], [each for each in others if not each.is_there], writing


def version_with_snapshot(project: Project, pk: int) -> ModelVersion | None:
    """A version of the project by its key. One query."""
    return project.versions.select_related("run__snapshot").filter(pk=pk).first()


def predictions_of(version: ModelVersion | None, responses: Iterable[int]) -> dict[int, Prediction]:
    """What a version predicts, by response id. One query (none without a version)."""
    if version is None:
        return {}
    return predictions_by_version([version], responses).get(version.pk, {})


def predictions_by_version(
    versions: Sequence[ModelVersion], responses: Iterable[int]
) -> dict[int, dict[int, Prediction]]:
    """What versions predict, by version id and response id. One query."""
    found: dict[int, dict[int, Prediction]] = {}
    for prediction in Prediction.objects.filter(version__in=versions, response__in=list(responses)):
        found.setdefault(prediction.version_id, {})[prediction.response_id] = prediction
    return found


def joint_of(version: ModelVersion | None, pairs: Iterable[int] | None = None) -> dict[int, JointVotes]:
    """A version's joint votes by pair id, of these pairs or of all. One query; none of a version that never votes."""
    if version is None:
        return {}
    return joint_by_version([version], pairs).get(version.pk, {})


def joint_by_version(
    versions: Iterable[ModelVersion], pairs: Iterable[int] | None = None
) -> dict[int, dict[int, JointVotes]]:
    """Joint votes by version id and pair id. One query; none where no version votes."""
    found: dict[int, dict[int, JointVotes]] = {}
    if not (voting := [version for version in versions if version.method in GENERATIVE]):
        return found
    rows = JointVotes.objects.filter(version__in=voting)
    for joint in rows if pairs is None else rows.filter(pair__in=list(pairs)):
        found.setdefault(joint.version_id, {})[joint.pair_id] = joint
    return found


def outcome_of(
    version: ModelVersion, a: Prediction | None, b: Prediction | None, joint: JointVotes | None = None
) -> Outcome | None:
    """Predicted outcome of a comparison; None where one of the two has no prediction yet."""
    if a is None or b is None:
        return None
    return outcome_from(version, (a.score, a.p), (b.score, b.p), joint)


@dataclass(frozen=True)
class Scores:
    """The histogram of a version's scores."""

    low: float
    high: float
    counts: list[int]


def score_distribution(version: ModelVersion) -> Scores | None:
    """The histogram of all scores of a version, None if it has none. One query, then kept."""

    def make() -> Scores | None:
        rows = version.predictions.order_by("pk")
        scores = list(rows.values_list("score", flat=True)[:HISTOGRAM_SCORES])
        return Scores(*score_bins(scores)) if scores else None

    return kept(f"scores:{identity(version)}", make)


def percentiles_among(version: ModelVersion, scores: Sequence[float]) -> list[float | None]:
    """Of each score, the share (0..100) of the version's predictions that are lower; equal ones count half. One query.

    None without predictions.
    """
    counts: dict[str, Any] = {}
    for number, score in enumerate(scores):
        counts[f"lower_{number}"] = Count("pk", filter=Q(score__lt=score))
        counts[f"equal_{number}"] = Count("pk", filter=Q(score=score))
    found = version.predictions.aggregate(all=Count("pk"), **counts)
    return [
        100 * (found[f"lower_{number}"] + found[f"equal_{number}"] / 2) / found["all"]
        if found["all"]
        else None
        for number in range(len(scores))
    ]


def tallies(project: Project, state: str) -> dict[int, Votes]:
    """Votes by pair id, of all pairs that have any. One query, then kept while the labels' state is the same."""
    return kept(f"tallies:{state}", lambda: vote_tallies(project))


def offered_authors(project: Project) -> list[str]:
    """Names of authors to choose from, empty where there are too many for a menu. One query."""
    named = Response.objects.of(project).exclude(author="").order_by("author")
    names = list(named.values_list("author", flat=True).distinct()[: MENU + 1])
    return names if len(names) <= MENU else []


@dataclass(frozen=True)
class Annotators:
    """Keys and names of those who labelled: the MENU people with the most labels, and the others."""

    busiest: list[tuple[int, str]]
    others: list[tuple[int, str]]


def annotators_of(project: Project) -> Annotators:
    """Who labelled in a project. One query, three where more people labelled than a menu has."""
    names = {pk: named.name for pk, named in annotator_names(project).items()}
    most = set(names)
    if len(names) > MENU:
        most = {pk for pk, _ in label_counts_by(project).most_common(MENU)}
    every = list(names.items())
    return Annotators(
        [each for each in every if each[0] in most], [each for each in every if each[0] not in most]
    )


def preferences(version: ModelVersion, state: str) -> dict[int, tuple[float, bool]]:
    """P(a preferred) of every judged pair of the version's project, and whether the version was trained on labels of
    one of the two, by pair id. Three queries (four of a version that votes), then one while neither labels nor
    predictions come.

    Pairs nobody has judged are left out: there is nobody to disagree with.
    """

    def make() -> dict[int, tuple[float, bool]]:
        rows = list(version.predictions.values_list("response_id", "score", "p", "split"))
        ratings = {response: (score, p) for response, score, p, _ in rows}
        seen = {response for response, _, _, split in rows if split == Prediction.Split.TRAIN}
        judged = Pair.objects.filter(project_id=version.project_id, judged__gt=0)
        joint = joint_of(version)
        found = {}
        for pair, a, b in judged.values_list("pk", "response_a_id", "response_b_id"):
            if a in ratings and b in ratings:
                outcome = outcome_from(version, ratings[a], ratings[b], joint.get(pair))
                found[pair] = outcome.preferred, a in seen or b in seen
        return found

    rated = version.predictions.count()
    return kept(f"preferences-seen:{identity(version)}:{rated}:{state}", make)


def outcome_from(
    version: ModelVersion, a: tuple[float, Any], b: tuple[float, Any], joint: JointVotes | None = None
) -> Outcome:
    """Of two (score, p); p is None for scalar versions. All pages, lists and tallies ask here who is preferred.

    `joint`: the version's votes on this very pair. Where there are any they decide: two responses that were scored in
    one text are not rated independently, as the product of their distributions takes them to be.
    """
    if joint is not None and joint.total:
        return joint_outcome(joint.wins, joint.ties, joint.losses)
    (score_a, p_a), (score_b, p_b) = a, b
    if p_a and p_b:
        return ordinal_outcome(p_a, p_b)
    return scalar_outcome(score_a, score_b, tie=version.tie, temperature=version.temperature)


def identity(version: ModelVersion) -> str:
    """Names a version in keys of the cache, also across databases."""
    return f"{version.pk}:{version.digest}:{version.created_at.timestamp()}"
