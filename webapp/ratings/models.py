"""Prediction: one model version's rating distribution for one response. Also what lists are sorted by.

Of a generative version also what it wrote: Trajectory, Vote, JointVotes (docs/methods.md).
"""

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.utils import timezone

from webapp.corpus.models import Pair, Project, Response
from webapp.training.models import ModelVersion


class PredictionQuerySet(models.QuerySet["Prediction"]):
    def learnt(self) -> "PredictionQuerySet":
        """Of responses whose labels the version was trained on, whatever predicted them."""
        return self.filter(split__in=(Prediction.Split.TRAIN, Prediction.Split.CROSSFIT))


class Prediction(models.Model):
    """p(1..9) of an ordinal version, or the scalar of a scalar one. Never edited, only added.

    A cross-fitted one is by a head that was trained without the response's labels (docs/methods.md).
    """

    class Split(models.TextChoices):
        TRAIN = "train", "trained on this response's labels"
        HELD_OUT = "held_out", "held out of training"
        CROSSFIT = "crossfit", "held out: cross-fitted"
        UNLABELLED = "unlabelled", "no labels when trained"

    version = models.ForeignKey(ModelVersion, on_delete=models.CASCADE, related_name="predictions")
    response = models.ForeignKey(Response, on_delete=models.CASCADE, related_name="predictions")
    # The reward for ranking: E[s] of an ordinal version, r of a scalar one.
    score = models.FloatField()
    expected = models.FloatField(null=True, blank=True)
    spread = models.FloatField(null=True, blank=True)
    p = models.JSONField(
        null=True, blank=True, help_text="p(1) .. p(9), sums to 1; null for scalar versions."
    )
    # Share of the project's responses that this version scores lower (ties count half), 0..100.
    percentile = models.FloatField()
    split = models.CharField(max_length=10, choices=Split.choices)
    truncated = models.BooleanField(default=False)

    objects = PredictionQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["version", "response"], name="prediction_once")]
        indexes = [
            models.Index(fields=["version", "score"]),
            models.Index(fields=["version", "spread"]),
            models.Index(fields=["version", "split", "response"]),
        ]

    @property
    def seen(self) -> bool:
        """Whether what predicted it was trained on labels of the response."""
        return self.split == self.Split.TRAIN


# --- What a generative version wrote. Never edited, only added; the text is a machine's, and as hostile as any ---


class Trajectory(models.Model):
    """One text in which a version criticises and scores responses of one prompt, in the order that it was shown.

    text: where it could not be taken apart into principles and a critique of each response; else empty, as these are
    kept. counted: whether its scores are among the votes; the meta model may leave it out.
    """

    version = models.ForeignKey(ModelVersion, on_delete=models.CASCADE, related_name="trajectories")
    sample = models.PositiveSmallIntegerField()
    text = models.TextField(blank=True)
    principles = models.TextField(blank=True)
    # Why no scores could be read from it; empty where they were.
    reason = models.CharField(max_length=300, blank=True)
    correct = models.FloatField(null=True, help_text="-1 to 1, by the labels; null where there were none.")
    counted = models.BooleanField()
    meta = models.FloatField(null=True, help_text="The meta model's score, where there is such a model.")


class Vote(models.Model):
    """What a trajectory says of one response; `rating` is null where the text could not be read."""

    trajectory = models.ForeignKey(Trajectory, db_index=False, on_delete=models.CASCADE, related_name="votes")
    response = models.ForeignKey(Response, on_delete=models.CASCADE, related_name="machine_votes")
    # Where the response stood among those shown, from 0.
    position = models.PositiveSmallIntegerField()
    rating = models.PositiveSmallIntegerField(null=True)
    critique = models.TextField(blank=True)
    median = models.BooleanField(
        default=False, help_text="The one of a response's votes that is shown first."
    )

    class Meta:
        constraints = [models.UniqueConstraint(fields=["trajectory", "response"], name="vote_once")]


class JointVotes(models.Model):
    """How often a pair's a scored above, like and below its b in one trajectory; `first_`: where a was shown first."""

    version = models.ForeignKey(
        ModelVersion, db_index=False, on_delete=models.CASCADE, related_name="joint_votes"
    )
    pair = models.ForeignKey(Pair, on_delete=models.CASCADE, related_name="joint_votes")
    wins = models.PositiveIntegerField()
    ties = models.PositiveIntegerField()
    losses = models.PositiveIntegerField()
    first_wins = models.PositiveIntegerField()
    first_ties = models.PositiveIntegerField()
    first_losses = models.PositiveIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["version", "pair"], name="joint_votes_once")]

    @property
    def total(self) -> int:
        return self.wins + self.ties + self.losses


# --- Derived: counted anew from labels whenever need be (webapp/ratings/tallies.py) ---

# Of which nothing can be said: below all values, so that it comes last where the highest is first.
NOTHING = -1.0


class Derived(models.Model):
    """Follows from other rows: a backup leaves it out, and no constraint of it may hold up who judges."""

    class Meta:
        abstract = True


class Uncounted(Derived):
    """A pair or a response that is new or whose labels changed, and that is not counted yet. Written by triggers."""

    pair = models.BigIntegerField(null=True)
    response = models.BigIntegerField(null=True)


class TallyState(Derived):
    """When a project's tallies were last brought up to date; who counts holds the row."""

    project = models.OneToOneField(
        Project, primary_key=True, db_constraint=False, on_delete=models.CASCADE, related_name="tally_state"
    )
    counted_at = models.DateTimeField(null=True)


class PairTally(Derived):
    """What the current votes of a pair add up to: see labels.summaries.Votes. Every counted pair has a row."""

    pair = models.OneToOneField(
        Pair, primary_key=True, db_constraint=False, on_delete=models.CASCADE, related_name="tally"
    )
    project = models.ForeignKey(
        Project, db_constraint=False, db_index=False, on_delete=models.CASCADE, related_name="+"
    )
    total = models.PositiveIntegerField()
    share = models.FloatField()
    disagreement = models.FloatField()
    weaker = models.FloatField()

    class Meta:
        indexes = [
            models.Index(fields=["project", "-disagreement", "-total", "pair"], name="tally_disagreement"),
            models.Index(fields=["project", "-weaker", "-total", "pair"], name="tally_weaker"),
        ]


class ResponseTally(Derived):
    """What the current levels of a response add up to; every counted response has a row.

    mean, variance: of bad 0, normal 1, good 2; labelled: it has a level, or stands in a judged pair.
    """

    response = models.OneToOneField(
        Response, primary_key=True, db_constraint=False, on_delete=models.CASCADE, related_name="tally"
    )
    project = models.ForeignKey(
        Project, db_constraint=False, db_index=False, on_delete=models.CASCADE, related_name="+"
    )
    bad = models.PositiveIntegerField()
    normal = models.PositiveIntegerField()
    good = models.PositiveIntegerField()
    total = models.PositiveIntegerField()
    mean = models.FloatField()
    variance = models.FloatField()
    labelled = models.BooleanField()

    class Meta:
        indexes = [
            models.Index(fields=["project", "-mean", "response"], name="tally_mean"),
            models.Index(fields=["project", "-variance", "response"], name="tally_variance"),
            models.Index(fields=["project", "-total", "response"], name="tally_total"),
        ]


class SearchText(Derived):
    """What a search finds a response by (its text, author, id, and its prompt), or a pair (its id), in small letters.

    A table of its own, since an index of all substrings would be written anew at each change of a counter beside them.
    """

    response = models.OneToOneField(
        Response, null=True, db_constraint=False, on_delete=models.CASCADE, related_name="sought"
    )
    pair = models.OneToOneField(
        Pair, null=True, db_constraint=False, on_delete=models.CASCADE, related_name="sought"
    )
    words = models.TextField()


class VersionTally(Derived):
    """That a version is compared with people, from how many of its predictions and within which levels; when asked."""

    version = models.OneToOneField(
        ModelVersion, primary_key=True, db_constraint=False, on_delete=models.CASCADE, related_name="tally"
    )
    # 0 while it is being worked out.
    rated = models.PositiveIntegerField(default=0)
    bad_to = models.PositiveSmallIntegerField(default=0)
    normal_to = models.PositiveSmallIntegerField(default=0)
    asked_at = models.DateTimeField(default=timezone.now)


class Rank(models.IntegerChoices):
    """What is a fair comparison of a model with people comes first in a list, and what cannot be compared last."""

    FAIR = 0
    UNFAIR = 1
    NOTHING = 2


class PairGap(Derived):
    """A version's P(a preferred) beside the people's share for a. Every counted pair has a row.

    rank: unfair are pairs of one vote, and those that the version was trained on; agrees: 1 where both prefer the same
    response, -1 where not, 0 where one of the two has no order.
    """

    version = models.ForeignKey(
        ModelVersion, db_constraint=False, db_index=False, on_delete=models.CASCADE, related_name="pair_gaps"
    )
    pair = models.ForeignKey(Pair, db_constraint=False, on_delete=models.CASCADE, related_name="gaps")
    rank = models.PositiveSmallIntegerField(choices=Rank)
    gap = models.FloatField()
    agrees = models.SmallIntegerField()
    seen = models.BooleanField()
    total = models.PositiveIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["version", "pair"], name="pair_gap_once")]
        indexes = [models.Index(fields=["version", "rank", "-gap", "-total", "pair"], name="pair_gap_order")]


class ResponseGap(Derived):
    """How far a version's expected level is from the people's mean one. Every counted response has a row."""

    version = models.ForeignKey(
        ModelVersion,
        db_constraint=False,
        db_index=False,
        on_delete=models.CASCADE,
        related_name="response_gaps",
    )
    response = models.ForeignKey(Response, db_constraint=False, on_delete=models.CASCADE, related_name="gaps")
    rank = models.PositiveSmallIntegerField(choices=Rank)
    gap = models.FloatField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["version", "response"], name="response_gap_once")]
        indexes = [models.Index(fields=["version", "rank", "-gap", "response"], name="response_gap_order")]


class Summary(Derived):
    """What the worker has added up of a large project: see stored.py. `state` names the labels that it is of."""

    project = models.ForeignKey(
        Project, db_constraint=False, on_delete=models.CASCADE, related_name="summaries"
    )
    name = models.CharField(max_length=40)
    state = models.CharField(max_length=200, blank=True)
    value = models.JSONField(null=True, encoder=DjangoJSONEncoder)
    made_at = models.DateTimeField(null=True)
    seconds = models.FloatField(default=0.0)
    wanted = models.BooleanField(default=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "name"], name="summary_once")]
