"""What a project asks back about rollouts, and the taking of what servers report."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from webapp.accounts.models import User
from webapp.corpus.access import check_not_archived
from webapp.corpus.audit import Action, audit, changes
from webapp.corpus.counters import counters_forget
from webapp.corpus.models import Pair, Project, Prompt, Response
from webapp.corpus.queued import ROLLOUTS_FIRST
from webapp.importing.fields import RowError, short_digest
from webapp.importing.writing import pair_id
from webapp.ratings.queries import outcome_from
from webapp.rollouts.features import reference_of
from webapp.rollouts.models import Rollout, RolloutPair, RolloutSettings, RolloutWindow
from webapp.rollouts.reading import Proposed, Report, ReportRefused, Scored, report_read

AUTHOR = "rollout"
"""The author of every rollout's response; hidden from annotators as any other."""


class RolloutsOff(Exception):
    """The project takes no rollouts now; the message says why and who can change it."""


class RolloutsLater(Exception):
    """Not now, but soon: the same report may be sent again."""


def settings_of(project: Project) -> RolloutSettings:
    """The project's settings; those of a new one, which asks nothing, where nobody has set any."""
    return RolloutSettings.objects.filter(project=project).first() or RolloutSettings(project=project)


def why_not(project: Project, chosen: RolloutSettings) -> str:
    """Why no rollouts are taken; empty where they are."""
    if not project.asks_pairs:
        return "This project asks for levels of single responses, and rollouts come as pairs."
    if not chosen.on:
        return "This project does not ask people back about rollouts. An admin can switch it on on its Rollouts page."
    return ""


def settings_for(project: Project) -> dict[str, Any] | None:
    """What a reward server is told to pick (`ask_back` of GET /serving); None where it is asked for nothing."""
    chosen = settings_of(project)
    if project.archived_at is not None or why_not(project, chosen):
        return None
    return {
        "per_hour": chosen.per_hour,
        "sample": chosen.sample,
        "window_seconds": chosen.window_seconds,
        "shares": chosen.shares,
        "reference": reference_of(project),
    }


@transaction.atomic
def settings_save(*, settings: RolloutSettings, actor: User | None) -> None:
    """Save what is asked back. Raises ProjectArchived."""
    project = Project.objects.select_for_update(no_key=True).get(pk=settings.project_id)
    check_not_archived(project)
    before = settings_of(project)
    settings.pk = before.pk
    settings.save()
    names = ["on", "per_hour", "sample", "window_seconds", "uncertain", "moved"]
    if changed := changes(before, settings, names):
        audit(project=project, actor=actor, action=Action.ROLLOUTS_CHANGED, detail=changed)


def rollouts_take(*, project: Project, report: Any, reporter: User | None) -> dict[str, Any]:
    """Take a server's report: its window is noted, and its pairs are asked from now on, within the hour's cap.

    Returns {"taken", "duplicates", "over_cap", "left_out": [{field, message, remedy}]}. A pair whose prompt and texts
    stand side by side already is a duplicate. The same window reported again changes nothing. Raises ReportRefused for
    a report that can't be read (nothing is stored), RolloutsOff, RolloutsLater, ProjectArchived.
    """
    found = report_read(report)
    with transaction.atomic():
        # Servers report at once: whoever has the project's row counts the hour and writes before the next one counts.
        project = Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        check_not_archived(project)
        chosen = settings_of(project)
        if words := why_not(project, chosen):
            raise RolloutsOff(words)
        if project.imports.unfinished().exists():
            raise RolloutsLater("An import is being written. Send the report again when it has ended.")
        return _take(project, chosen, found, reporter)


def _take(project: Project, chosen: RolloutSettings, report: Report, reporter: User | None) -> dict[str, Any]:
    version = project.versions.filter(digest=report.digest).order_by("-pk").first()
    if version is None:
        remedy = "Report what a version of this project has scored."
        raise ReportRefused(RowError("version", "is the digest of no version of this project.", remedy))
    named = {"server": report.server, "version": version, "since": report.since, "until": report.until}
    if RolloutWindow.objects.filter(project=project, **named).exists():
        return _counts(duplicates=len(report.pairs), left_out=report.left_out)
    new = _without_known(project, report.pairs)
    asked = RolloutPair.objects.of(project).filter(created_at__gt=timezone.now() - timedelta(hours=1)).count()
    # The list is in random order, so the first ones are a random part of it: each had its chance times that part.
    taken = new[: max(0, chosen.per_hour - asked)]
    part = len(taken) / len(new) if new else 1.0
    counts = _counts(
        taken=len(taken),
        duplicates=len(report.pairs) - len(new),
        over_cap=len(new) - len(taken),
        left_out=report.left_out,
    )
    window = RolloutWindow.objects.create(
        project=project,
        reported_by=reporter,
        **named,
        **report.counts,
        **{**counts, "left_out": len(report.left_out)},
    )
    if taken:
        writer = _Writer(project, window)
        drawn = writer.write(taken, part)
        writer.write_later(drawn, at_most=chosen.per_hour - asked - len(taken))
        counters_forget(project.pk)
    return counts


def _counts(
    *, left_out: list[dict[str, str]], taken: int = 0, duplicates: int = 0, over_cap: int = 0
) -> dict[str, Any]:
    return {"taken": taken, "duplicates": duplicates, "over_cap": over_cap, "left_out": left_out}


def _without_known(project: Project, pairs: list[Proposed]) -> list[Proposed]:
    """The pairs whose prompt and texts don't stand side by side yet, each once."""
    prompts = {pair.prompt for pair in pairs}
    digests = {scored.digest for pair in pairs for scored in (pair.a, pair.b)}
    rows = Pair.objects.of(project).filter(
        response_a__prompt__digest__in=prompts, response_a__digest__in=digests, response_b__digest__in=digests
    )
    names = ("response_a__prompt__digest", "response_a__digest", "response_b__digest")
    known = {(prompt, *sorted(texts)) for prompt, *texts in rows.values_list(*names)}
    new: dict[Any, Proposed] = {}
    for pair in pairs:
        if pair.texts not in known:
            new.setdefault(pair.texts, pair)
    return list(new.values())


class _Writer:
    """Writes the pairs of one window. Prompts and rollouts that are there already are not stored twice."""

    def __init__(self, project: Project, window: RolloutWindow) -> None:
        self.project, self.window = project, window
        self.rollouts: dict[int, Rollout] = {}

    def write(self, pairs: list[Proposed], part: float) -> list[RolloutPair]:
        """`part`: the part of the new ones that the hour's cap let in. Returns those drawn at random."""
        self._look_up(pairs)
        drawn = []
        for pair in pairs:
            prompt = self._prompt(pair)
            a, b = (self._response(prompt, scored) for scored in (pair.a, pair.b))
            random = pair.why == RolloutPair.Why.RANDOM
            row = RolloutPair.objects.create(
                pair=self._pair(a, b),
                window=self.window,
                a=self._rollout(a, pair.a),
                b=self._rollout(b, pair.b),
                why=pair.why,
                propensity=pair.propensity * part if random else pair.propensity,
                preferred=pair.preferred,
            )
            if random:
                drawn.append(row)
        return drawn

    def write_later(self, drawn: list[RolloutPair], at_most: int) -> None:
        """Hold a rollout of each random pair against an earlier one of its prompt, where there is one, for what pairs
        of one window can't tell: whether people like what the policy has come to write as much as the model does.
        """
        prompts = {row.a.response.prompt_id for row in drawn}
        earlier: dict[int, list[Rollout]] = {}
        for rollout in Rollout.objects.before(self.window, prompts):
            earlier.setdefault(rollout.response.prompt_id, []).append(rollout)
        for row in drawn:
            found = earlier.get(row.a.response.prompt_id)
            if not found or at_most < 1:
                continue
            # The sides of a random pair are in random order.
            before, now = found.pop(0), row.a
            sides = (before.response, now.response)
            if before.response_id == now.response_id or Pair.objects.filter(
                response_a__in=sides, response_b__in=sides
            ):
                continue
            outcome = outcome_from(self.window.version, (before.score, before.p), (now.score, now.p))
            RolloutPair.objects.create(
                pair=self._pair(*sides),
                window=self.window,
                a=before,
                b=now,
                why=RolloutPair.Why.LATER,
                propensity=1.0,
                preferred=min(1.0, max(0.0, outcome.preferred)),
            )
            at_most -= 1

    def _look_up(self, pairs: Iterable[Proposed]) -> None:
        """What is there already: prompts by digest, and their rollouts by text."""
        digests = {pair.prompt for pair in pairs}
        prompts = self.project.prompts.filter(digest__in=digests).order_by("-pk")
        self.prompts = {prompt.digest: prompt for prompt in prompts}
        texts = {scored.digest for pair in pairs for scored in (pair.a, pair.b)}
        responses = Response.objects.filter(
            prompt__in=list(self.prompts.values()), digest__in=texts, author=AUTHOR
        )
        self.responses = {(row.prompt_id, row.digest): row for row in responses.order_by("-pk")}

    def _prompt(self, pair: Proposed) -> Prompt:
        if pair.prompt not in self.prompts:
            self.prompts[pair.prompt] = Prompt.objects.create(
                project=self.project,
                external_id=_free(self.project.prompts, f"rollout-{pair.prompt[:16]}", pair.prompt),
                messages=pair.messages,
                digest=pair.prompt,
            )
        return self.prompts[pair.prompt]

    def _response(self, prompt: Prompt, scored: Scored) -> Response:
        key = (prompt.pk, scored.digest)
        if key not in self.responses:
            digest = short_digest(prompt.external_id, scored.digest)
            self.responses[key] = Response.objects.create(
                project=self.project,
                prompt=prompt,
                external_id=_free(self.project.responses, f"rollout-{digest}", scored.digest),
                text=scored.text,
                digest=scored.digest,
                author=AUTHOR,
                metadata={"version": self.window.version.address, "score": scored.score},
            )
        return self.responses[key]

    def _rollout(self, response: Response, scored: Scored) -> Rollout:
        """One a response and window, however many pairs it stands in."""
        if response.pk not in self.rollouts:
            self.rollouts[response.pk] = Rollout.objects.create(
                window=self.window,
                response=response,
                score=scored.score,
                expected=scored.expected,
                spread=scored.spread,
                p=scored.p,
            )
        return self.rollouts[response.pk]

    def _pair(self, a: Response, b: Response) -> Pair:
        return Pair.objects.create(
            project=self.project,
            external_id=_free(self.project.pairs, pair_id(a.external_id, b.external_id), a.digest + b.digest),
            response_a=a,
            response_b=b,
            wanted=self.project.overlap,
            priority=ROLLOUTS_FIRST,
        )


def _free(rows: Any, id: str, digest: str) -> str:
    """The id, or a longer one where somebody's file has taken it for something else."""
    return (
        id
        if not rows.filter(external_id=id).exists()
        else f"rollout-{short_digest(id, digest)}-{digest[:64]}"
    )
