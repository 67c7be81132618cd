"""The project page's numbers: agreement between people, what each serving version is worth, the first steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.urls import reverse
from django.utils import timezone

from webapp.accounts.models import User
from webapp.corpus.access import Access
from webapp.corpus.models import Membership, Project
from webapp.jobs import State
from webapp.labels.agreement import Agreement, Rating, krippendorff_alpha
from webapp.labels.models import LEVELS, VERDICTS, Judgement, QualityLabel
from webapp.labels.summaries import Day, LabelTotals, label_totals, labels_per_day
from webapp.ratings.queries import kept, labels_state
from webapp.training import reports
from webapp.training.models import ModelVersion, TrainingRun
from webapp.words import counted

# The newest labels that agreement is computed on: a quarter of a second at most, once per new label.
AGREEMENT_LABELS = 20_000
REPLICATES = 500
# Of fewer pairs or responses nothing is said in words.
FEWEST_UNITS = 10


@dataclass(frozen=True)
class ProjectAgreement:
    """Krippendorff's alpha between people."""

    verdicts: Agreement
    levels: Agreement


def agreement_of(project: Project) -> ProjectAgreement:
    """Alpha of verdicts (nominal) and of levels (ordinal), 95 % intervals by bootstrap over pairs and responses.

    Two queries over the newest labels alone; the caller keeps the result.
    """
    verdicts = Judgement.objects.verdicts().filter(pair__project=project)
    levels = QualityLabel.objects.current().filter(response__project=project)
    of_pairs = _newest(verdicts.values_list("pair_id", "annotator_id", "verdict"))
    of_responses = _newest(levels.values_list("response_id", "annotator_id", "level"))
    return ProjectAgreement(
        verdicts=krippendorff_alpha(of_pairs, categories=VERDICTS, replicates=REPLICATES),
        levels=krippendorff_alpha(of_responses, metric="ordinal", categories=LEVELS, replicates=REPLICATES),
    )


def _newest(rows: Any) -> list[Rating]:
    return list(rows.order_by("-pk")[:AGREEMENT_LABELS])


@dataclass(frozen=True)
class LabelSummary:
    """All that the overview adds up from labels, for as long as no label comes in."""

    totals: LabelTotals
    days: list[Day]
    agreement: ProjectAgreement


def label_summary(project: Project) -> LabelSummary:
    """Totals, labels per day and agreement. Nine queries, then two while the labels stay the same that day."""
    return kept(
        f"labels:{labels_state(project)}:{timezone.localdate()}",
        lambda: LabelSummary(label_totals(project), labels_per_day(project), agreement_of(project)),
    )


def agreement_words(alpha: float | None, units: int) -> str:
    """Krippendorff's own reading of alpha: 0.8 and above to rely on, from 0.667 for tentative conclusions."""
    if alpha is None:
        return ""
    if units < FEWEST_UNITS:
        return "too few to say anything of it"
    if alpha >= 0.8:
        return "people agree well"
    if alpha >= 0.667:
        return "people agree enough for tentative conclusions"
    if alpha >= 0.2:
        return "people often disagree"
    return "hardly better than chance"


@dataclass(frozen=True)
class VersionMetrics:
    """A serving version beside what it was measured to be worth on held-out labels (metrics.json)."""

    version: ModelVersion
    pairs: dict[str, Any] | None
    levels: dict[str, Any] | None
    auroc: dict[str, Any] | None
    # Accuracy minus the length baseline, as a share; None where one of the two is missing.
    over_length: float | None
    calibration: reports.Calibration | None
    robustness: reports.Robustness | None


def version_metrics(versions: Sequence[ModelVersion]) -> list[VersionMetrics]:
    """The held-out metrics of versions, in the versions' order."""
    found = []
    for version in versions:
        held_out = (version.metrics or {}).get("held_out") or {}
        pairs = held_out.get("pairs")
        over = None
        if pairs:
            accuracy, baseline = (_value(pairs.get(name)) for name in ("accuracy", "length_baseline"))
            over = None if accuracy is None or baseline is None else accuracy - baseline
        found.append(
            VersionMetrics(
                version=version,
                pairs=pairs,
                levels=held_out.get("levels") if version.saw_levels else None,
                auroc=held_out.get("auroc_good_bad"),
                over_length=over,
                calibration=reports.calibration(version.metrics or {}),
                robustness=reports.robustness(version.metrics or {}),
            )
        )
    return found


def _value(metric: dict[str, Any] | None) -> float | None:
    return (metric or {}).get("value")


@dataclass(frozen=True)
class Step:
    """One thing to do in a new project; `url` is empty where the reader may not do it."""

    title: str
    text: str
    done: bool
    url: str


def first_steps(
    project: Project,
    access: Access,
    *,
    items: int,
    totals: LabelTotals,
    runs: Sequence[TrainingRun],
    serving: int,
) -> list[Step]:
    """What a new project needs until its first model serves; an empty list from then on. One query at most.

    `items`: how many pairs (or responses) there are to judge; `runs`: the latest runs; `serving`: versions that serve.
    """
    if serving:
        return []
    labels = totals.judgements + totals.levels
    # Whoever made the project was not invited, nor were the names that came with imported labels.
    members = Membership.objects.filter(project=project, user__kind=User.Kind.PERSON)
    people = members.order_by().values("user").distinct().count() > 1
    failed = bool(runs) and runs[0].state in (State.FAILED, State.LOST)
    what = "pairs" if project.asks_pairs else "responses"

    def url(name: str, allowed: bool) -> str:
        return reverse(name, args=[project.slug]) if allowed else ""

    return [
        Step(
            f"Import {what} to judge",
            "Prompts, responses, pairs and, if you have them, votes: Caliper JSONL, TRL, hh-rlhf, PandaLM.",
            done=items > 0,
            url=url("importing:imports", access.admin),
        ),
        Step(
            "Invite people",
            "Each gets a link and a role: annotator, researcher or admin.",
            done=people,
            url=url("corpus:people", access.admin),
        ),
        Step(
            "Collect labels",
            f"{counted(labels, 'label')} so far; a training needs {project.min_judgements:,} or more.",
            done=labels >= project.min_judgements,
            url=url("labels:annotate", access.annotate),
        ),
        Step(
            "Train a reward model",
            "The last one failed: its page says why."
            if failed
            else "Its ratings then stand beside the labels on every page.",
            done=any(run.state == State.DONE for run in runs),
            url=url("training:runs", access.read),
        ),
    ]
