"""Machine annotators, from enrolment to stored judgements.

What a machine says is a Judgement like any other (append-only, current, exported), under a user whose kind is MACHINE
and with the source MACHINE. It holds no place of the queue and moves no counter: `LabelQuerySet.current` leaves it
out, and everything that is counted from labels reads that.

A machine is asked about a pair twice, each response once in front. Only what it says in both orders is its verdict.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.hashers import make_password
from django.db import IntegrityError, transaction
from django.db.models import F, QuerySet, TextField
from django.db.models.functions import Cast, Length
from django.utils import timezone

from webapp.accounts.models import User
from webapp.corpus.access import check_not_archived
from webapp.corpus.audit import Action, audit
from webapp.corpus.endpoints import Endpoint, endpoint_named
from webapp.corpus.models import Pair, Project
from webapp.corpus.options import ENDPOINT
from webapp.labels.machine_models import MachineAnnotator, MachineAnswer, MachineJob
from webapp.labels.models import Judgement, Source, Verdict
from webapp.labels.names import machine_username

Outcome = MachineAnswer.Outcome
_BUSY = "It is being asked at present: wait for that to end, or cancel it."


class MachineRefused(ValueError):
    """A machine can't be enrolled or asked; the message says why and what to do."""


def endpoint_of(machine: MachineAnnotator) -> Endpoint:
    """The endpoint as the operator describes it now. Raises MachineRefused where it is gone or serves another model."""
    found = endpoint_named(machine.endpoint)
    if found is None:
        raise MachineRefused(
            f"The operator no longer offers {machine.endpoint} (CALIPER_ENDPOINTS). What it said stays."
        )
    if found.model != machine.model:
        raise MachineRefused(
            f"{machine.endpoint} now serves {found.model}, and {machine.model} was enrolled. Another model is another "
            "annotator: withdraw this one and enrol the endpoint again."
        )
    return found


@transaction.atomic
def machine_enrol(*, project: Project, endpoint: str, actor: User) -> MachineAnnotator:
    """Enrol the model that an endpoint serves; one that was withdrawn takes up its old name. Raises MachineRefused."""
    check_not_archived(project)
    found = endpoint_named(endpoint)
    if found is None:
        raise MachineRefused(
            f"There is no {endpoint} here. The operator names endpoints in CALIPER_ENDPOINTS."
        )
    machine = MachineAnnotator.objects.filter(project=project, endpoint=endpoint, model=found.model).first()
    if machine is None:
        machine = MachineAnnotator.objects.create(
            project=project,
            user=_user(project, endpoint, found.model),
            endpoint=endpoint,
            model=found.model,
            enrolled_by=actor,
        )
    elif not MachineAnnotator.objects.filter(pk=machine.pk, withdrawn_at__isnull=False).update(
        withdrawn_at=None
    ):
        raise MachineRefused(f"{machine} is enrolled already.")
    machine.withdrawn_at = None
    _audit(machine, Action.MACHINE_ENROLLED, actor)
    return machine


def _user(project: Project, endpoint: str, model: str) -> User:
    """An account that can't sign in. Its username, too, tells what it is: exports show that alone."""
    name = f"{endpoint.removeprefix(ENDPOINT)}: {model}"
    return User.objects.create(
        username=machine_username(project, name),
        first_name=name[:150],
        kind=User.Kind.MACHINE,
        is_active=False,
        password=make_password(None),
    )


@transaction.atomic
def machine_withdraw(*, machine: MachineAnnotator, actor: User) -> bool:
    """It is asked no more; what it said stays. False: it was withdrawn before."""
    check_not_archived(machine.project)
    rows = MachineAnnotator.objects.enrolled().filter(pk=machine.pk)
    withdrawn = rows.update(withdrawn_at=timezone.now()) == 1
    if withdrawn:
        for job in machine.jobs.active():
            job.request_cancel()
        _audit(machine, Action.MACHINE_WITHDRAWN, actor)
    return withdrawn


def machine_ask(*, job: MachineJob, actor: User) -> MachineJob:
    """Queue a new round of questions. Raises MachineRefused, ProjectArchived."""
    machine = job.machine
    check_not_archived(machine.project)
    _askable(machine)
    if not open_pairs(machine, job.which).exists():
        raise MachineRefused(
            "It has been asked about every pair that people have judged."
            if job.which == MachineJob.Which.JUDGED
            else "It has been asked about every pair of this project."
        )
    job.project, job.created_by = machine.project, actor
    try:
        with transaction.atomic():
            job.save(force_insert=True)
            _audit(machine, Action.MACHINE_ASKED, actor, **_limits(job))
            job.enqueue()
    except IntegrityError:
        raise MachineRefused(_BUSY) from None
    return job


@transaction.atomic
def machine_resume(
    *, job: MachineJob, actor: User, cost_limit: float | None, token_limit: int | None
) -> bool:
    """Go on where a job stopped, under these limits; nothing that was answered is asked again. False: it has not
    stopped. Raises MachineRefused, ProjectArchived.
    """
    check_not_archived(job.project)
    _askable(job.machine)
    job.cost_limit, job.token_limit = cost_limit, token_limit
    try:
        with transaction.atomic():
            if not job.requeue():
                return False
    except IntegrityError:
        raise MachineRefused(_BUSY) from None
    job.save(update_fields=["cost_limit", "token_limit"])
    _audit(job.machine, Action.MACHINE_ASKED, actor, resumed=job.pk, **_limits(job))
    return True


def _askable(machine: MachineAnnotator) -> None:
    if machine.withdrawn_at is not None:
        raise MachineRefused(f"{machine} was withdrawn. Enrol it again first.")
    endpoint_of(machine)


def _limits(job: MachineJob) -> dict[str, Any]:
    return {name: getattr(job, name) for name in ("which", "pairs", "cost_limit", "token_limit")}


def _audit(machine: MachineAnnotator, action: Action, actor: User, **detail: Any) -> None:
    told = {"endpoint": machine.endpoint, "model": machine.model, **detail}
    audit(project=machine.project, actor=actor, action=action, detail=told)


# --- Which pairs, and what is said of them ---


def open_pairs(machine: MachineAnnotator, which: str) -> QuerySet[Pair]:
    """Pairs of one prompt that the machine has not been asked about."""
    pairs = Pair.objects.of(machine.project).filter(response_a__prompt=F("response_b__prompt"))
    if which == MachineJob.Which.JUDGED:
        pairs = pairs.filter(judged__gt=0)
    return pairs.exclude(pk__in=MachineAnswer.objects.filter(machine=machine).values("pair_id"))


@dataclass(frozen=True)
class Estimate:
    """About what one pair takes, in both orders together. cost: None where the endpoint has no prices."""

    tokens: int
    cost: float | None


# As workers.rewards.generative writes prompts and models answer them.
CHARACTERS_A_TOKEN = 4
FORM_CHARACTERS = 1200
ANSWER_TOKENS = 350
_PAIRS_READ = 200


def pair_estimate(machine: MachineAnnotator, endpoint: Endpoint) -> Estimate | None:
    """By the lengths of some of the pairs not asked yet; None where there are none."""
    read = list(
        open_pairs(machine, MachineJob.Which.ANY)
        .order_by("draw")
        .values_list(
            Length(Cast("response_a__prompt__messages", TextField())),
            Length("response_a__text"),
            Length("response_b__text"),
        )[:_PAIRS_READ]
    )
    if not read:
        return None
    around = FORM_CHARACTERS + len(machine.project.guidelines)
    tokens_in = 2 * (around + sum(map(sum, read)) / len(read)) / CHARACTERS_A_TOKEN
    tokens_out = 2 * ANSWER_TOKENS
    return Estimate(int(round(tokens_in + tokens_out, -2)), endpoint.cost(tokens_in, tokens_out))


@dataclass(frozen=True)
class Chosen:
    """Pairs drawn at random, all with the same chance, and that chance."""

    pairs: list[int]
    policy: str
    propensity: float


def pairs_choose(job: MachineJob) -> Chosen:
    """Draw up to `job.pairs` pairs; the same ones where it is asked again while nothing has changed."""
    pks = list(open_pairs(job.machine, job.which).order_by("pk").values_list("pk", flat=True))
    drawn = random.Random(job.pk).sample(pks, min(job.pairs, len(pks)))
    return Chosen(drawn, f"machine-{job.which}", len(drawn) / len(pks) if pks else 0.0)


@dataclass(frozen=True)
class Said:
    """One order's answer: its text, the scores of a and of b (1..9), or why there are none."""

    text: str
    scores: tuple[int, int] | None
    reason: str = ""

    def verdict(self, bad_to: int) -> str:
        """What the scores come to: the higher wins; equal ones are a tie, or both bad within the project's bad band."""
        if self.scores is None:
            return ""
        a, b = self.scores
        if a != b:
            return Verdict.A if a > b else Verdict.B
        return Verdict.BOTH_BAD if a <= bad_to else Verdict.TIE


@transaction.atomic
def answer_store(
    *, job: MachineJob, pair_id: int, ab: Said, ba: Said, policy: str, propensity: float
) -> MachineAnswer | None:
    """Keep what a machine said of a pair in both orders, with its judgement where they agree.

    None: it was stored before, or the pair is gone. No counter of the queue moves.
    """
    machine = job.machine
    known = MachineAnswer.objects.filter(machine=machine, pair=pair_id)
    if known.exists() or not Pair.objects.of(machine.project).filter(pk=pair_id).exists():
        return None
    bad_to = machine.project.bad_to
    first, second = ab.verdict(bad_to), ba.verdict(bad_to)
    outcome = Outcome.UNREAD if not first or not second else Outcome.ORDER
    judgement = None
    if first and first == second:
        outcome = Outcome.AGREED
        judgement = Judgement.objects.create(
            pair_id=pair_id,
            annotator_id=machine.user_id,
            verdict=first,
            source=Source.MACHINE,
            policy=policy,
            propensity=propensity,
            client_key=f"machine:{machine.pk}:{pair_id}",
        )
    return MachineAnswer.objects.create(
        machine=machine,
        job=job,
        pair_id=pair_id,
        outcome=outcome,
        judgement=judgement,
        policy=policy,
        propensity=propensity,
        **_columns("ab", ab, first),
        **_columns("ba", ba, second),
    )


def _columns(order: str, said: Said, verdict: str) -> Mapping[str, Any]:
    return {
        f"verdict_{order}": verdict,
        f"scores_{order}": said.scores and list(said.scores),
        f"text_{order}": said.text.replace("\x00", ""),
        f"reason_{order}": said.reason.replace("\x00", "")[:300],
    }
