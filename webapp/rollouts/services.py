"""What a project asks back about rollouts, and the taking of what servers report."""

import secrets
from datetime import timedelta
from typing import Any, TypeVar

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

_Key = tuple[int, str]
_Wanted = TypeVar("_Wanted")

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
    """Writes the pairs of one window, a statement a table. Prompts and rollouts that are there are not stored twice."""

    def __init__(self, project: Project, window: RolloutWindow) -> None:
        self.project, self.window = project, window

    def write(self, pairs: list[Proposed], part: float) -> list[RolloutPair]:
        """`part`: the part of the new ones that the hour's cap let in. Returns those drawn at random."""
        prompts = self._prompts(pairs)
        scored = {(prompts[pair.prompt].pk, each.digest): each for pair in pairs for each in (pair.a, pair.b)}
        responses = self._responses({prompt.pk: prompt for prompt in prompts.values()}, scored)
        rollouts = self._rollouts(responses, scored)
        ends = [[(prompts[pair.prompt].pk, each.digest) for each in (pair.a, pair.b)] for pair in pairs]
        made = self._pairs([(responses[a], responses[b]) for a, b in ends])
        rows = [
            RolloutPair(
                pair=row,
                window=self.window,
                a=rollouts[a],
                b=rollouts[b],
                why=pair.why,
                propensity=pair.propensity * (part if pair.why == RolloutPair.Why.RANDOM else 1),
                preferred=pair.preferred,
            )
            for pair, row, (a, b) in zip(pairs, made, ends, strict=True)
        ]
        RolloutPair.objects.bulk_create(rows)
        return [row for row in rows if row.why == RolloutPair.Why.RANDOM]

    def write_later(self, drawn: list[RolloutPair], at_most: int) -> None:
        """Hold a rollout of each random pair against an earlier one of its prompt, where there is one, for what pairs
        of one window can't tell: whether people like what the policy has come to write as much as the model does.
        """
        earlier: dict[int, list[Rollout]] = {}
        for rollout in Rollout.objects.before(self.window, {row.a.response.prompt_id for row in drawn}):
            earlier.setdefault(rollout.response.prompt_id, []).append(rollout)
        chosen: list[tuple[Rollout, Rollout]] = []
        for row in drawn:
            found = earlier.get(row.a.response.prompt_id)
            if not found or len(chosen) >= at_most:
                continue
            # The sides of a random pair are in random order.
            before, now = found.pop(0), row.a
            sides = (before.response, now.response)
            known = Pair.objects.filter(response_a__in=sides, response_b__in=sides)
            if before.response_id != now.response_id and not known.exists():
                chosen.append((before, now))
        made = self._pairs([(before.response, now.response) for before, now in chosen])
        RolloutPair.objects.bulk_create(
            RolloutPair(
                pair=row,
                window=self.window,
                a=before,
                b=now,
                why=RolloutPair.Why.LATER,
                propensity=1.0,
                preferred=self._preferred(before, now),
            )
            for row, (before, now) in zip(made, chosen, strict=True)
        )

    def _preferred(self, a: Rollout, b: Rollout) -> float:
        outcome = outcome_from(self.window.version, (a.score, a.p), (b.score, b.p))
        return min(1.0, max(0.0, outcome.preferred))

    def _prompts(self, pairs: list[Proposed]) -> dict[str, Prompt]:
        """By digest; of several that are there the oldest."""
        messages = {pair.prompt: pair.messages for pair in pairs}
        there = self.project.prompts.filter(digest__in=messages).order_by("-pk")
        known = {prompt.digest: prompt for prompt in there}
        missing = {digest: f"rollout-{digest[:16]}" for digest in messages if digest not in known}
        ids = _free(self.project.prompts, missing)
        new = [
            Prompt(project=self.project, external_id=id, messages=messages[digest], digest=digest)
            for digest, id in ids.items()
        ]
        return known | {prompt.digest: prompt for prompt in Prompt.objects.bulk_create(new)}

    def _responses(self, prompts: dict[int, Prompt], scored: dict[_Key, Scored]) -> dict[_Key, Response]:
        """By prompt and text: rollouts that are there, and new ones."""
        there = Response.objects.filter(
            prompt__in=prompts, digest__in={digest for _, digest in scored}, author=AUTHOR
        )
        known = {(row.prompt_id, row.digest): row for row in there.order_by("-pk")}
        missing = {
            key: f"rollout-{short_digest(prompts[key[0]].external_id, key[1])}"
            for key in scored
            if key not in known
        }
        new = [
            Response(
                project=self.project,
                prompt=prompts[key[0]],
                external_id=id,
                text=scored[key].text,
                digest=key[1],
                author=AUTHOR,
                metadata={"version": self.window.version.address, "score": scored[key].score},
            )
            for key, id in _free(self.project.responses, missing).items()
        ]
        made = Response.objects.bulk_create(new)
        return {key: known[key] for key in scored if key in known} | {
            (row.prompt_id, row.digest): row for row in made
        }

    def _rollouts(self, responses: dict[_Key, Response], scored: dict[_Key, Scored]) -> dict[_Key, Rollout]:
        """One a response, however many pairs it stands in."""
        rows = {
            key: Rollout(
                window=self.window,
                response=responses[key],
                score=each.score,
                expected=each.expected,
                spread=each.spread,
                p=each.p,
            )
            for key, each in scored.items()
        }
        Rollout.objects.bulk_create(rows.values())
        return rows

    def _pairs(self, sides: list[tuple[Response, Response]]) -> list[Pair]:
        wanted = {(a.pk, b.pk): pair_id(a.external_id, b.external_id) for a, b in sides}
        ids = _free(self.project.pairs, wanted)
        return Pair.objects.bulk_create(
            Pair(
                project=self.project,
                external_id=ids[a.pk, b.pk],
                response_a=a,
                response_b=b,
                wanted=self.project.overlap,
                priority=ROLLOUTS_FIRST,
            )
            for a, b in sides
        )


def _free(rows: Any, wanted: dict[_Wanted, str]) -> dict[_Wanted, str]:
    """The ids, and others for those that somebody's file has taken for something else."""
    taken = set(rows.filter(external_id__in=wanted.values()).values_list("external_id", flat=True))
    return {
        key: f"rollout-{short_digest(id, secrets.token_hex(8))}" if id in taken else id
        for key, id in wanted.items()
    }
