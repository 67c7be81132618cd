"""Assignment, Judgement, QualityLabel. Judgements and labels are append-only; a correction supersedes."""

import uuid
from typing import Any, Self

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.expressions import RawSQL
from django.utils import timezone

from webapp.accounts.models import User
from webapp.corpus.models import Import, Pair, Project, Response
from webapp.labels.machine_models import MachineAnnotator as MachineAnnotator  # found where models stand
from webapp.labels.machine_models import MachineAnswer as MachineAnswer
from webapp.labels.machine_models import MachineJob as MachineJob


class Verdict(models.TextChoices):
    A = "a", "A is better"
    B = "b", "B is better"
    TIE = "tie", "tie"
    BOTH_BAD = "both_bad", "both bad"
    SKIP = "skip", "skipped"


class Level(models.TextChoices):
    BAD = "bad", "bad"
    NORMAL = "normal", "normal"
    GOOD = "good", "good"


VERDICTS = ("a", "b", "tie", "both_bad")
"""The verdicts that say something: all but a skip."""

LEVELS = ("bad", "normal", "good")


class Side(models.TextChoices):
    """Which response of the pair stood left (first)."""

    A = "a", "a"
    B = "b", "b"


class Source(models.TextChoices):
    BROWSER = "browser", "browser"
    API = "api", "API"
    IMPORT = "import", "import"
    SIMULATED = "simulated", "simulated"
    MACHINE = "machine", "machine"


class AssignmentQuerySet(models.QuerySet["Assignment"]):
    def of(self, project: Project, annotator: User) -> "AssignmentQuerySet":
        """One annotator's cards in a project."""
        return self.filter(project=project, annotator=annotator)

    def open(self) -> "AssignmentQuerySet":
        return self.filter(state=Assignment.State.OPEN)

    def with_said(self) -> "AssignmentQuerySet":
        """Annotated with `said`: how many rows their annotator has about what they show (answers and undos)."""
        return self.annotate(
            said=RawSQL(
                "(SELECT COUNT(*) FROM labels_judgement s WHERE s.pair_id = labels_assignment.pair_id"
                " AND s.annotator_id = labels_assignment.annotator_id)"
                " + (SELECT COUNT(*) FROM labels_qualitylabel s WHERE s.response_id = labels_assignment.response_id"
                " AND s.annotator_id = labels_assignment.annotator_id)",
                (),
            )
        )

    def with_texts(self) -> "AssignmentQuerySet":
        """With `said` and all that a card shows, in one query."""
        return self.with_said().select_related(
            "project", "pair__response_a__prompt", "pair__response_b__prompt", "response__prompt"
        )

    def with_heads(self) -> "AssignmentQuerySet":
        """Annotated with the annotator's current level of either response: `head_a`, `level_a`, `head_b`, `level_b`.

        It comes with the pair.
        """
        head = (
            "(SELECT h.{} FROM labels_qualitylabel h WHERE h.response_id = corpus_pair.response_{}_id"
            " AND h.annotator_id = labels_assignment.annotator_id AND h.is_current)"
        )
        found = {
            f"{name}_{side}": RawSQL(head.format(column, side), ())
            for side in ("a", "b")
            for name, column in (("head", "id"), ("level", "level"))
        }
        return self.select_related("pair").annotate(**found)


class Assignment(models.Model):
    """A pair (or a lone response) reserved for one annotator until a time.

    OPEN --submit--> DONE --undo--> OPEN;   OPEN --expire | give up--> EXPIRED. Each arrow is a conditional UPDATE.
    `key` is the client key of the card: one verdict is stored for it, however often it is sent.
    """

    class State(models.TextChoices):
        OPEN = "open", "open"
        DONE = "done", "done"
        EXPIRED = "expired", "expired"

    key = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="assignments")
    annotator = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="assignments"
    )
    pair = models.ForeignKey(
        Pair, null=True, blank=True, on_delete=models.CASCADE, related_name="assignments"
    )
    response = models.ForeignKey(
        Response, null=True, blank=True, on_delete=models.CASCADE, related_name="assignments"
    )
    left = models.CharField(max_length=1, choices=Side.choices, blank=True)
    state = models.CharField(max_length=10, choices=State.choices, default=State.OPEN)
    # True while this assignment holds one of the pair's wanted places (counted in Pair.reserved).
    holds_place = models.BooleanField(default=True)
    reserved_until = models.DateTimeField()
    # Why this pair was chosen and with what probability, given what was open for the annotator.
    policy = models.CharField(max_length=40)
    propensity = models.FloatField()
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    # Known where a query has asked for them: see AssignmentQuerySet.with_said and counters.with_numbers.
    said: int | None = None
    numbers: str | None = None

    objects = AssignmentQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(pair__isnull=False, response__isnull=True)
                | Q(pair__isnull=True, response__isnull=False),
                name="assignment_of_one",
            ),
            models.UniqueConstraint(
                fields=["annotator", "pair"], condition=Q(state="open"), name="assignment_open_pair"
            ),
            models.UniqueConstraint(
                fields=["annotator", "response"], condition=Q(state="open"), name="assignment_open_response"
            ),
        ]
        indexes = [
            models.Index(fields=["project", "annotator", "state"]),
            models.Index(fields=["state", "reserved_until"]),
        ]


class LabelQuerySet(models.QuerySet[Any]):
    def by(self, annotator: User) -> Self:
        return self.filter(annotator=annotator)

    def current(self) -> Self:
        """The newest answer of each person: neither superseded nor a retraction. What machines said is no label: it
        counts nowhere but where `current_of_all` is asked for by name.
        """
        return self.current_of_all().exclude(source=Source.MACHINE)

    def current_of_all(self) -> Self:
        """As `current`, and what machine annotators say now."""
        return self.filter(is_current=True, retraction=False)

    def of_machines(self) -> Self:
        return self.filter(source=Source.MACHINE)

    def of_people(self) -> Self:
        """Whatever their state: all but what machine annotators said."""
        return self.exclude(source=Source.MACHINE)


class JudgementQuerySet(LabelQuerySet):
    def of(self, project: Project) -> Self:
        return self.filter(pair__project=project)

    def verdicts(self) -> Self:
        """Current judgements that say something: no skips."""
        return self.current().exclude(verdict=Verdict.SKIP)


class LevelQuerySet(LabelQuerySet):
    def of(self, project: Project) -> Self:
        return self.filter(response__project=project)

    def answers(self) -> Self:
        """Current levels and skips: a row without a level is a skip while its card is closed, else an undo."""
        return self.filter(Q(retraction=False) | Q(assignment__state=Assignment.State.DONE), is_current=True)


class Judgement(models.Model):
    """One annotator's verdict on a pair. Never edited: a correction or an undo is a new row that supersedes.

    `verdict` names responses (a, b), whatever side they were shown on; `left` records the side. A retraction (undo)
    is a skip that supersedes.
    """

    pair = models.ForeignKey(Pair, on_delete=models.CASCADE, related_name="judgements")
    annotator = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="judgements"
    )
    assignment = models.ForeignKey(
        Assignment, null=True, blank=True, on_delete=models.SET_NULL, related_name="judgements"
    )
    verdict = models.CharField(max_length=10, choices=Verdict.choices)
    strength = models.PositiveSmallIntegerField(null=True, blank=True)
    # Tags of one side as "a:TAG" or "b:TAG"; other words come from imports.
    reasons = models.JSONField(default=list, blank=True)
    # Verdict and levels contradict each other, and the annotator said that they should.
    contradiction_kept = models.BooleanField(default=False)
    comment = models.TextField(blank=True)
    left = models.CharField(max_length=1, choices=Side.choices, blank=True)
    shown_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    policy = models.CharField(max_length=40, blank=True)
    propensity = models.FloatField(null=True, blank=True)
    source = models.CharField(max_length=10, choices=Source.choices, default=Source.BROWSER)
    origin = models.ForeignKey(
        Import, null=True, blank=True, editable=False, on_delete=models.SET_NULL, related_name="+"
    )
    # One row per intent: the card's key and how often it was reopened; imported rows carry their own.
    client_key = models.CharField(max_length=120, unique=True)
    supersedes = models.OneToOneField(
        "self", null=True, blank=True, on_delete=models.PROTECT, related_name="superseded_by"
    )
    is_current = models.BooleanField(default=True)
    retraction = models.BooleanField(default=False)

    objects = JudgementQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["pair", "annotator"], condition=Q(is_current=True), name="judgement_current_once"
            ),
            models.CheckConstraint(
                condition=Q(strength__isnull=True) | Q(strength__gte=1, strength__lte=3),
                name="judgement_strength",
            ),
            models.CheckConstraint(
                condition=Q(retraction=False) | Q(verdict="skip"), name="judgement_retraction_is_skip"
            ),
        ]
        indexes = [models.Index(fields=["annotator", "-created_at"]), models.Index(fields=["created_at"])]

    def tags_of(self, side: str) -> list[str]:
        """The reasons chosen for response "a" or "b"."""
        return [reason[2:] for reason in self.reasons if reason.startswith(f"{side}:")]

    @property
    def tags_by_side(self) -> list[tuple[str, list[str]]]:
        """The sides that have tags: A is response a, as on the pages that show both."""
        return [(side.upper(), tags) for side in ("a", "b") if (tags := self.tags_of(side))]

    @property
    def other_reasons(self) -> list[str]:
        """Reasons that belong to neither side, as imports bring them."""
        return [reason for reason in self.reasons if reason[:2] not in ("a:", "b:")]


class QualityLabel(models.Model):
    """One annotator's absolute level for one response. Never edited.

    A retraction has no level: an undo, or a lone response that was skipped (its assignment is then DONE).
    """

    response = models.ForeignKey(Response, on_delete=models.CASCADE, related_name="quality_labels")
    annotator = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="quality_labels"
    )
    level = models.CharField(max_length=10, choices=Level.choices, blank=True)
    # The judgement it was given with, if any; a lone-response label has an assignment instead.
    judgement = models.ForeignKey(
        Judgement, null=True, blank=True, on_delete=models.PROTECT, related_name="quality_labels"
    )
    assignment = models.ForeignKey(
        Assignment, null=True, blank=True, on_delete=models.SET_NULL, related_name="quality_labels"
    )
    comment = models.TextField(blank=True)
    shown_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    source = models.CharField(max_length=10, choices=Source.choices, default=Source.BROWSER)
    origin = models.ForeignKey(
        Import, null=True, blank=True, editable=False, on_delete=models.SET_NULL, related_name="+"
    )
    client_key = models.CharField(max_length=140, unique=True)
    supersedes = models.OneToOneField(
        "self", null=True, blank=True, on_delete=models.PROTECT, related_name="superseded_by"
    )
    is_current = models.BooleanField(default=True)
    retraction = models.BooleanField(default=False)

    objects = LevelQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["response", "annotator"], condition=Q(is_current=True), name="level_current_once"
            ),
            models.CheckConstraint(
                condition=Q(retraction=True, level="") | (Q(retraction=False) & ~Q(level="")),
                name="level_retraction_is_blank",
            ),
        ]
        indexes = [models.Index(fields=["annotator", "-created_at"]), models.Index(fields=["created_at"])]

    @property
    def tags(self) -> list[str]:
        """The reasons chosen for this response with the judgement that brought the level."""
        if self.judgement is None:
            return []
        return self.judgement.tags_of("a" if self.judgement.pair.response_a_id == self.response_id else "b")
