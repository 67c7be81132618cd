"""Machine annotators: an endpoint that a project asks, the jobs that ask it, and what it said in either order."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone

from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project
from webapp.jobs import ACTIVE, Job, JobQuerySet, State


class MachineQuerySet(models.QuerySet["MachineAnnotator"]):
    def enrolled(self) -> "MachineQuerySet":
        return self.filter(withdrawn_at__isnull=True)


class MachineAnnotator(models.Model):
    """A model behind one of the operator's endpoints, enrolled in a project. It has no role there: it is no member.

    What it says is stored under a user of its own, whose kind is MACHINE. Where the operator puts another model behind
    the endpoint, that is another annotator.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="machines")
    user = models.OneToOneField(User, on_delete=models.PROTECT, related_name="machine")
    endpoint = models.CharField(max_length=120, help_text="endpoint:NAME, as the operator offers it.")
    model = models.CharField(max_length=200)
    enrolled_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    withdrawn_at = models.DateTimeField(null=True, blank=True)

    objects = MachineQuerySet.as_manager()

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(fields=["project", "endpoint", "model"], name="machine_enrolled_once")
        ]

    def __str__(self) -> str:
        return self.user.display_name


class MachineJobQuerySet(JobQuerySet):
    def of(self, project: Project) -> "MachineJobQuerySet":
        return self.filter(project=project)


class MachineJob(Job):
    """One round of questions: up to `pairs` pairs, each in both orders, until done or until a limit is spent.

    `usage` counts what the endpoint answered so far: {requests, retries, tokens_in, tokens_out, cost, currency,
    unanswered}, the last one in pairs. Those that the endpoint failed on may be drawn again by a later job.
    """

    class Which(models.TextChoices):
        JUDGED = "judged", "pairs that people have judged"
        ANY = "any", "pairs of the whole project"

    task = "workers.tasks.ask_machine"
    queue = "default"

    # Archiving a project cancels its jobs without a look at this app.
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="machine_jobs")
    machine = models.ForeignKey(MachineAnnotator, on_delete=models.CASCADE, related_name="jobs")
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    which = models.CharField(max_length=10, choices=Which.choices, default=Which.JUDGED)
    pairs = models.PositiveIntegerField(
        default=100, validators=[MinValueValidator(1), MaxValueValidator(20_000)]
    )
    cost_limit = models.FloatField(null=True, blank=True, validators=[MinValueValidator(0.0)])
    token_limit = models.PositiveBigIntegerField(null=True, blank=True, validators=[MinValueValidator(1)])
    usage = models.JSONField(default=dict, blank=True)

    objects: ClassVar[Any] = MachineJobQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["machine"], condition=models.Q(state__in=ACTIVE), name="machine_asked_once_at_a_time"
            )
        ]

    @property
    def folder(self) -> Path:
        """Questions and answers until they are stored; kept while the job may be resumed."""
        return settings.DATA_DIR / "machine-jobs" / str(self.pk)

    @property
    def waits_for(self) -> int | None:
        """The running job of any machine: one at a time, so that imports and exports keep a worker's place."""
        running = MachineJob.objects.filter(state=State.RUNNING).exclude(pk=self.pk)
        return running.values_list("pk", flat=True).first() if self.state == State.QUEUED else None


class MachineAnswer(models.Model):
    """What a machine said of a pair, asked twice: with a shown first, and with b shown first.

    Each order has its text, scores [of a, of b] (none where the text could not be read: `reason_*`), and the verdict
    that they come to. Equal verdicts are the machine's judgement. Otherwise the order decided, and it has given none.
    """

    class Outcome(models.TextChoices):
        AGREED = "agreed", "same verdict in both orders"
        ORDER = "order", "the order decided"
        UNREAD = "unread", "could not be read"

    machine = models.ForeignKey(MachineAnnotator, on_delete=models.CASCADE, related_name="answers")
    job = models.ForeignKey(MachineJob, on_delete=models.CASCADE, related_name="answers")
    pair = models.ForeignKey(Pair, on_delete=models.CASCADE, related_name="machine_answers")
    outcome = models.CharField(max_length=10, choices=Outcome.choices)
    # "" where the text could not be read.
    verdict_ab = models.CharField(max_length=10, blank=True)
    verdict_ba = models.CharField(max_length=10, blank=True)
    scores_ab = models.JSONField(null=True)
    scores_ba = models.JSONField(null=True)
    text_ab = models.TextField(blank=True)
    text_ba = models.TextField(blank=True)
    reason_ab = models.CharField(max_length=300, blank=True)
    reason_ba = models.CharField(max_length=300, blank=True)
    # How the pair was chosen, and with what probability among those that could have been.
    policy = models.CharField(max_length=40)
    propensity = models.FloatField()
    judgement = models.OneToOneField(
        "labels.Judgement", null=True, on_delete=models.CASCADE, related_name="machine_answer"
    )
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(fields=["machine", "pair"], name="machine_answer_once"),
            models.CheckConstraint(
                condition=models.Q(outcome="agreed", judgement__isnull=False)
                | ~models.Q(outcome="agreed") & models.Q(judgement__isnull=True),
                name="machine_answer_judgement",
            ),
        ]

    @property
    def verdict_words(self) -> str:
        return _WORDS.get(self.verdict_ab, "")

    @property
    def orders(self) -> list["Order"]:
        """Both orders as pages show them, the one with a in front first."""
        return [
            Order("A", self.text_ab, self.scores_ab, self.reason_ab),
            Order("B", self.text_ba, self.scores_ba, self.reason_ba),
        ]


_WORDS = {"a": "A is better", "b": "B is better", "tie": "tie", "both_bad": "both bad"}


@dataclass(frozen=True)
class Order:
    """One order's answer: which response stood first, the text, and its scores [of a, of b]."""

    first: str
    text: str
    scores: list[int] | None
    reason: str
