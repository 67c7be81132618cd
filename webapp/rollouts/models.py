"""What training runs elsewhere had scored here, and which of it people are asked about."""

from collections.abc import Iterable
from typing import Any, ClassVar, Self

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from webapp.corpus.models import Pair, Project, Response
from webapp.training.models import ModelVersion


class RolloutSettings(models.Model):
    """Whether a project asks people back about rollouts, and how much of them. A project without a row does not."""

    project = models.OneToOneField(Project, on_delete=models.CASCADE, related_name="rollout_settings")
    on = models.BooleanField("Ask people back about rollouts", default=False)
    per_hour = models.PositiveIntegerField(
        "Pairs an hour at most",
        default=60,
        validators=[MinValueValidator(1), MaxValueValidator(100_000)],
        help_text="Of all reward servers together. Each pair is judged by as many people as the project wants.",
    )
    sample = models.PositiveSmallIntegerField(
        "Pairs a report",
        default=6,
        validators=[MinValueValidator(1), MaxValueValidator(200)],
        help_text="What a server picks of one window at most.",
    )
    window_seconds = models.PositiveIntegerField(
        "Seconds of a window",
        default=300,
        validators=[MinValueValidator(1), MaxValueValidator(24 * 3600)],
        help_text="A server reports once in so many seconds.",
    )
    uncertain = models.PositiveSmallIntegerField(
        "The most uncertain, %",
        default=33,
        validators=[MaxValueValidator(90)],
        help_text="Pairs of which the model can least tell who wins.",
    )
    moved = models.PositiveSmallIntegerField(
        "The most unlike, %",
        default=33,
        validators=[MaxValueValidator(90)],
        help_text="Pairs whose length or style lies farthest from what people have judged.",
    )

    class Meta:
        constraints = [
            # Estimates rest on the random ones, so some always are.
            models.CheckConstraint(
                condition=Q(uncertain__lte=90 - models.F("moved")), name="rollouts_some_random"
            ),
        ]

    @property
    def random(self) -> int:
        """The share of pairs drawn at random, in percent: what the other two leave."""
        return 100 - self.uncertain - self.moved

    @property
    def shares(self) -> dict[str, float]:
        return {
            "uncertain": self.uncertain / 100,
            "moved": self.moved / 100,
            "random": self.random / 100,
        }


class WindowQuerySet(models.QuerySet["RolloutWindow"]):
    def with_versions(self) -> Self:
        return self.select_related("version").defer("version__metrics")


class RolloutWindow(models.Model):
    """What one server scored with one version from one time to another: counts, and what became of its pairs."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="rollout_windows")
    version = models.ForeignKey(ModelVersion, on_delete=models.CASCADE, related_name="rollout_windows")
    server = models.CharField(max_length=200)
    since = models.DateTimeField()
    until = models.DateTimeField()
    seen = models.PositiveBigIntegerField(help_text="Rollouts scored.")
    prompts = models.PositiveBigIntegerField()
    candidates = models.PositiveBigIntegerField(help_text="Pairs of two rollouts of one prompt.")
    reward_mean = models.FloatField()
    reward_sd = models.FloatField()
    length_mean = models.FloatField(help_text="Characters.")
    length_sd = models.FloatField()
    taken = models.PositiveIntegerField(default=0)
    duplicates = models.PositiveIntegerField(default=0)
    over_cap = models.PositiveIntegerField(default=0)
    left_out = models.PositiveIntegerField(default=0, help_text="Pairs whose texts nobody can judge.")
    reported_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    reported_at = models.DateTimeField(default=timezone.now, editable=False)

    objects: ClassVar[Any] = WindowQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "server", "version", "since", "until"], name="rollout_window_once"
            ),
        ]
        indexes = [models.Index(fields=["project", "until"])]


class RolloutQuerySet(models.QuerySet["Rollout"]):
    def before(self, window: RolloutWindow, prompts: Iterable[int]) -> Self:
        """Rollouts of these prompts that the same version scored in earlier windows and that were drawn at random, the
        earliest first; none that stands in such a pair already.
        """
        pairs = RolloutPair.objects.filter(Q(a=OuterRef("pk")) | Q(b=OuterRef("pk")))
        return (
            self.filter(
                Exists(pairs.drawn()),
                ~Exists(pairs.later()),
                window__project=window.project_id,
                window__version=window.version_id,
                window__until__lte=window.since,
                response__prompt__in=prompts,
            )
            .select_related("response")
            .order_by("window__until", "pk")
        )


class Rollout(models.Model):
    """A response as a server scored it: its score, and with ratings their mean, spread and distribution."""

    window = models.ForeignKey(RolloutWindow, on_delete=models.CASCADE, related_name="rollouts")
    response = models.ForeignKey(Response, on_delete=models.CASCADE, related_name="rollouts")
    score = models.FloatField()
    expected = models.FloatField(null=True)
    spread = models.FloatField(null=True)
    p = models.JSONField(null=True, help_text="p(1..9).")

    objects: ClassVar[Any] = RolloutQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["window", "response"], name="rollout_once")]


class RolloutPairQuerySet(models.QuerySet["RolloutPair"]):
    def of(self, project: Project) -> Self:
        return self.filter(window__project=project)

    def drawn(self) -> Self:
        """Those drawn at random, which alone say something about all rollouts."""
        return self.filter(why=RolloutPair.Why.RANDOM)

    def later(self) -> Self:
        """Those of an earlier and a later rollout."""
        return self.filter(why=RolloutPair.Why.LATER)

    def with_names(self) -> Self:
        """With what a list shows of them: versions, scores, texts."""
        return self.select_related(
            "window__version", "a", "b", "pair__response_a__prompt", "pair__response_b"
        ).defer("window__version__metrics")


class RolloutPair(models.Model):
    """A pair that people are asked about because a server reported it: why, how likely that was, what was expected."""

    class Why(models.TextChoices):
        UNCERTAIN = "uncertain", "uncertain"
        MOVED = "moved", "unlike what was judged"
        RANDOM = "random", "random"
        # Made here, not reported: a is a rollout of an earlier window, b one of the same prompt and version now.
        LATER = "later", "earlier and later"

    pair = models.OneToOneField(Pair, on_delete=models.CASCADE, related_name="rollouts")
    window = models.ForeignKey(RolloutWindow, on_delete=models.CASCADE, related_name="pairs")
    a = models.ForeignKey(Rollout, on_delete=models.CASCADE, related_name="pairs_as_a")
    b = models.ForeignKey(Rollout, on_delete=models.CASCADE, related_name="pairs_as_b")
    why = models.CharField(max_length=10, choices=Why.choices)
    # Of a random one: the chance that a candidate of its window is asked, after what the cap left. 1 of others.
    propensity = models.FloatField()
    preferred = models.FloatField(help_text="P(a preferred), a tie counting half, as the version says it.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects: ClassVar[Any] = RolloutPairQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(
                condition=Q(propensity__gt=0, propensity__lte=1, preferred__gte=0, preferred__lte=1),
                name="rollout_pair_chances",
            ),
        ]
        indexes = [models.Index(fields=["created_at"])]
