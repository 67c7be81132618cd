"""The predictions of model versions as an export format: what each believes of every response, beside the people."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from webapp.corpus.models import Project
from webapp.labels.models import Level, QualityLabel
from webapp.ratings.ballots import ratings_by_version
from webapp.ratings.models import Prediction
from webapp.ratings.probabilities import RATINGS
from webapp.ratings.queries import serving_versions
from webapp.snapshots.columns import FLAG, INT32, NUMBER, TEXT, Schema
from webapp.snapshots.exporting import ExportRefused
from webapp.snapshots.formats import Choice, Format, View
from webapp.snapshots.reading import BATCH, CHUNK, Among, by_bytes, chunks
from webapp.snapshots.writing import Batch
from webapp.training.models import ModelVersion

_P = [f"p{rating}" for rating in range(1, RATINGS + 1)]
_FIELDS = ("score", "expected", "spread", "percentile", "split", "truncated")


def version_name(version: ModelVersion) -> str:
    return f"{version.method}-{version.number}"


def known_versions(project: Project) -> list[tuple[str, str]]:
    """(name, words) of the versions that predict something, the newest first."""
    versions = ModelVersion.objects.filter(project=project, predictions__isnull=False).distinct()
    return [
        (version_name(version), f"{version}{' (serves)' if version.is_serving else ''}")
        for version in versions.order_by("-pk")
    ]


def chosen_versions(project: Project, name: str) -> list[ModelVersion]:
    """The named version, or all that serve. Raises ExportRefused."""
    if not name:
        if versions := serving_versions(project):
            return versions
        raise ExportRefused("No version of this project serves yet. Train a model, or name a version.")
    method, _, number = name.rpartition("-")
    versions = list(
        ModelVersion.objects.filter(project=project, method=method, number=number)
        if number.isdecimal()
        else ()
    )
    if not versions:
        known = ", ".join(known for known, _ in known_versions(project)) or "none"
        raise ExportRefused(f"There is no version “{name}”. Versions with predictions: {known}.")
    return versions


class Predictions(View):
    def __init__(self, choice: Choice) -> None:
        super().__init__(choice)
        self.versions = chosen_versions(choice.project, choice.version)
        types = {
            **dict.fromkeys(COLUMNS, TEXT),
            **dict.fromkeys((*_P, "score", "expected", "spread", "percentile"), NUMBER),
            **dict.fromkeys(Level.values, INT32),
            "truncated": FLAG,
        }
        self.schema = Schema(types.items())
        for version in self.versions:
            self.notes.append(f"- `{version_name(version)}` is {version} with the digest `{version.digest}`")

    def end(self) -> Iterator[Batch]:
        total = self.project.responses.count()
        for version in self.versions:
            predictions = (
                Prediction.objects.filter(version=version)
                .order_by(by_bytes("response__external_id"))
                .values_list(
                    "response_id", "response__external_id", "response__text", "response__author",
                    "response__prompt__external_id", "response__prompt__group", "p", *_FIELDS,
                )
            )  # fmt: skip
            found = 0
            for chunk in chunks(predictions.iterator(CHUNK), BATCH):
                found += len(chunk)
                yield self._batch(version, chunk)
            self.left_out["no prediction"] += total - found

    def _batch(self, version: ModelVersion, rows: list[Any]) -> Batch:
        pks, ids, texts, authors, prompts, groups, shares, *values = zip(*rows, strict=True)
        people = _levels(pks)
        batch: Batch = {
            "response_id": ids,
            "response": texts,
            "author": authors,
            "prompt_id": prompts,
            "group": [group or prompt for group, prompt in zip(groups, prompts, strict=True)],
            "version": [version_name(version)] * len(rows),
            **dict(zip(_FIELDS, values, strict=True)),
        }
        for place, name in enumerate(_P):
            batch[name] = [p[place] if p else None for p in shares]
        votes = ratings_by_version([version], pks).get(version.pk, {})
        batch["votes"] = [" ".join(map(str, votes[pk])) if pk in votes else None for pk in pks]
        for level in Level.values:
            batch[level] = [people[pk, level] for pk in pks]
        return batch


def _levels(pks: tuple[int, ...]) -> Counter[tuple[int, str]]:
    """How many people gave each response each level."""
    labels = QualityLabel.objects.current().filter(Among("response_id", pks))
    return Counter(labels.values_list("response_id", "level").iterator(CHUNK))


COLUMNS = {
    "response_id": "id of the response",
    "response": "its text, exactly; the transcript of an answer of several messages",
    "author": "who wrote it, usually a model",
    "prompt_id": "id of the prompt",
    "group": "topic, or the prompt's id: split training and test data by it",
    "version": "the version that predicts: method and number",
    "score": "the reward for ranking: the expected rating of a version with ratings, else its scalar",
    **{name: f"probability of rating {name[1:]}; empty for scalar versions" for name in _P},
    "votes": "the ratings that these probabilities were counted from, the lowest first; empty where a version does not "
    "vote",
    "expected": "expected rating, 1 to 9; empty for scalar versions",
    "spread": "standard deviation of the rating, the version's uncertainty; empty for scalar versions",
    "percentile": "share of the project's responses that the version scores lower, 0 to 100",
    "split": "train: it was trained on labels of this response; held_out: neither its weights nor this row's "
    "calibration saw them; crossfit: it was, but this row is by a fold that was not; unlabelled: there were none",
    "truncated": "the version read the text shortened",
    "bad": "people whose level of the response is bad, now",
    "normal": "people whose level of the response is normal, now",
    "good": "people whose level of the response is good, now",
}

PREDICTIONS = Format(
    "predictions",
    Predictions,
    divides=False,
    description="""
What versions of reward models predict for every response, beside the levels that people gave. Compare the two only on
rows whose `split` is held_out, crossfit or unlabelled: on the others a version predicts what it was trained on.""",
    columns=COLUMNS,
    again="this table is for analysis and has no reader; a version predicts again by itself when it is trained.",
    help="Rating distribution, expected rating, spread and percentile of every response, whether the version was "
    "trained on it, and people's levels.",
    file_types=("parquet", "jsonl", "csv"),
    aggregates=False,
    versions=known_versions,
)
