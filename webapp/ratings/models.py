"""Prediction: one model version's rating distribution for one response."""

from django.db import models

from webapp.corpus.models import Response
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
            models.Index(fields=["version", "split", "response"]),
        ]

    @property
    def seen(self) -> bool:
        """Whether what predicted it was trained on labels of the response."""
        return self.split == self.Split.TRAIN
