"""Storing what a model version predicts, and what a generative one wrote."""

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import transaction

from webapp.corpus.models import Pair, Response
from webapp.jobs import JobFailed
from webapp.ratings.models import JointVotes, Prediction, Trajectory, Vote
from webapp.ratings.probabilities import RATINGS
from webapp.training.models import ModelVersion

BATCH = 1000
# Responses in one text, samples of a response, signs of a text: more than any of our models writes.
SHOWN, SAMPLES, TEXT_LENGTH, REASON_LENGTH = 16, 1000, 1_000_000, 300


class BadPredictions(JobFailed):
    """A file of a run holds something that no model of ours writes. The message names the row."""


def percentiles(scores: Sequence[float]) -> list[float]:
    """Of each score, the share (0..100) of the others that are lower; equal ones count half. One alone gets 50."""
    ordered = sorted(scores)
    others = max(1, len(ordered) - 1)
    result = []
    for score in scores:
        lower = bisect.bisect_left(ordered, score)
        equal = bisect.bisect_right(ordered, score) - lower - 1
        result.append(50.0 if len(ordered) == 1 else 100 * (lower + equal / 2) / others)
    return result


def _checked(row: dict[str, Any], number: int) -> dict[str, Any]:
    """The row, or BadPredictions: finite numbers, p a distribution over nine ratings or null, a known split."""
    name = row.get("response_id")
    for column in ("score", "expected", "spread"):
        value = row.get(column)
        if (value is None and column == "score") or (value is not None and not math.isfinite(value)):
            raise BadPredictions(f"row {number} ({name}): {column} is {value}, not a finite number")
    p = row.get("p")
    if p is not None and not (
        len(p) == RATINGS and all(0 <= share <= 1 for share in p) and abs(sum(p) - 1) < 1e-3
    ):
        raise BadPredictions(f"row {number} ({name}): p is not a distribution over {RATINGS} ratings")
    if row.get("split") not in Prediction.Split.values:
        raise BadPredictions(f"row {number} ({name}): split {row.get('split')!r} is unknown")
    return row


@transaction.atomic
def predictions_store(*, version: ModelVersion, rows: Sequence[dict[str, Any]]) -> int:
    """Store one Prediction per row of predictions.parquet; returns how many. Raises BadPredictions.

    Rows whose response has been deleted since the snapshot are left out.
    """
    checked = [_checked(row, number) for number, row in enumerate(rows)]
    pk_of = dict(Response.objects.of(version.project).values_list("external_id", "pk"))
    known = [row for row in checked if row["response_id"] in pk_of]
    return _create(version, pk_of, known, percentiles([row["score"] for row in known]))


@transaction.atomic
def predictions_add(*, version: ModelVersion, rows: Sequence[dict[str, Any]]) -> int:
    """Store those rows whose response the version has not predicted yet; returns how many. Raises BadPredictions.

    Their percentiles are among the scores of both; those of the older rows stay as they were.
    """
    checked = [_checked(row, number) for number, row in enumerate(rows)]
    before = dict(version.predictions.values_list("response_id", "score"))
    pk_of = dict(Response.objects.of(version.project).values_list("external_id", "pk"))
    new = [row for row in checked if row["response_id"] in pk_of and pk_of[row["response_id"]] not in before]
    scores = [row["score"] for row in new]
    return _create(version, pk_of, new, percentiles([*scores, *before.values()])[: len(new)])


def _create(
    version: ModelVersion,
    pk_of: dict[str, int],
    rows: Sequence[dict[str, Any]],
    percentages: Sequence[float],
) -> int:
    predictions = [
        Prediction(
            version=version,
            response_id=pk_of[row["response_id"]],
            score=row["score"],
            expected=row["expected"],
            spread=row["spread"],
            p=row["p"],
            percentile=percentile,
            split=row["split"],
            truncated=bool(row["truncated"]),
        )
        for row, percentile in zip(rows, percentages, strict=True)
    ]
    Prediction.objects.bulk_create(predictions, batch_size=BATCH)
    return len(predictions)


# --- Votes ---

_Key = tuple[str, int]  # a response's external id, and the sample


@transaction.atomic
def votes_store(
    *,
    version: ModelVersion,
    trajectories: Sequence[Mapping[str, Any]],
    critiques: Sequence[Mapping[str, Any]],
    joint: Sequence[Mapping[str, Any]],
) -> int:
    """Store what a generative version wrote when it scored; returns how many votes. Raises BadPredictions.

    The rows are those of trajectories.parquet (of the stage "score" alone), critiques.parquet and joint.parquet
    (docs/run-folder.md). What concerns responses that have been deleted since the snapshot is left out, and so are two
    responses that are no pair.
    """
    pk_of = dict(Response.objects.of(version.project).values_list("external_id", "pk"))
    written = _critiques(critiques)
    scored = [
        _trajectory(row, number) for number, row in enumerate(trajectories) if row.get("stage") == "score"
    ]
    _check_once(scored)
    stored = 0
    known = [row for row in scored if any(name in pk_of for name in row["responses"])]
    for at in range(0, len(known), BATCH):
        stored += _votes_create(version, pk_of, known[at : at + BATCH], written)
    _joint_create(version, [_joint(row, number) for number, row in enumerate(joint)])
    return stored


def _votes_create(
    version: ModelVersion,
    pk_of: Mapping[str, int],
    rows: Sequence[Mapping[str, Any]],
    written: Mapping[_Key, Mapping[str, Any]],
) -> int:
    said = [[written.get((name, row["sample"]), {}) for name in row["responses"]] for row in rows]
    principles = [next((each.get("principles") for each in words if each), "") for words in said]
    made = Trajectory.objects.bulk_create(
        Trajectory(
            version=version, sample=row["sample"], principles=_text(how), reason=_text(row["reason"])[:REASON_LENGTH],
            # Texts are long, and most are principles and critiques alone.
            text="" if how and all(each.get("critique") for each in words) else _text(row["text"]),
            correct=row["correct"], counted=row["counted"] and row["scores"] is not None, meta=row["meta"],
        )
        for row, words, how in zip(rows, said, principles, strict=True)
    )  # fmt: skip
    votes = [
        Vote(
            trajectory=trajectory, response_id=pk_of[name], position=position,
            rating=row["scores"][position] if row["scores"] else None, critique=_text(each.get("critique")),
            median=bool(each.get("median")),
        )
        for trajectory, row, words in zip(made, rows, said, strict=True)
        for position, (name, each) in enumerate(zip(row["responses"], words, strict=True))
        if name in pk_of
    ]  # fmt: skip
    Vote.objects.bulk_create(votes, batch_size=BATCH)
    return len(votes)


def _joint_create(version: ModelVersion, rows: Sequence[Mapping[str, Any]]) -> None:
    """Counts as the project's pair has its sides; a row may have them the other way round."""
    pairs = {
        (a, b): pk
        for pk, a, b in Pair.objects.of(version.project).values_list(
            "pk", "response_a__external_id", "response_b__external_id"
        )
    }
    made: dict[int, JointVotes] = {}
    for number, row in enumerate(rows):
        a, b, every, first = row["response_a"], row["response_b"], row["every"], row["first"]
        if (pk := pairs.get((a, b))) is None:
            if (pk := pairs.get((b, a))) is None:
                continue
            second = [whole - part for whole, part in zip(every, first, strict=True)]
            every, first = every[::-1], second[::-1]
        if pk in made:
            raise BadPredictions(f"joint.parquet, row {number} ({a}, {b}): this pair has a row already")
        made[pk] = JointVotes(
            version=version, pair_id=pk, wins=every[0], ties=every[1], losses=every[2], first_wins=first[0],
            first_ties=first[1], first_losses=first[2],
        )  # fmt: skip
    JointVotes.objects.bulk_create(made.values(), batch_size=BATCH)


def _critiques(rows: Sequence[Mapping[str, Any]]) -> dict[_Key, Mapping[str, Any]]:
    """By response and sample."""
    found: dict[_Key, Mapping[str, Any]] = {}
    for number, row in enumerate(rows):
        key = row.get("response_id"), row.get("sample")
        where = f"critiques.parquet, row {number} ({key[0]}, sample {key[1]})"
        if not _counts(key[1], below=SAMPLES):
            raise BadPredictions(f"{where}: sample is no number from 0 to {SAMPLES - 1}")
        if key in found:
            raise BadPredictions(f"{where}: this response has a critique of this sample already")
        for column in ("principles", "critique"):
            _check_text(row.get(column), f"{where}: {column}")
        found[key] = row  # type: ignore[index]
    return found


def _trajectory(row: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    """The row, or BadPredictions: known columns, scores that are ratings of its responses or null, finite numbers."""
    names, scores, sample = row.get("responses"), row.get("scores"), row.get("sample")
    where = f"trajectories.parquet, row {number} (prompt {row.get('prompt_id')}, sample {sample})"
    if not names or len(names) > SHOWN or len(set(names)) < len(names):
        raise BadPredictions(f"{where}: responses must be 1 to {SHOWN} different ids")
    if not _counts(sample, below=SAMPLES):
        raise BadPredictions(f"{where}: sample is no number from 0 to {SAMPLES - 1}")
    if scores is not None and not (
        len(scores) == len(names) and all(_counts(score, below=RATINGS + 1) and score for score in scores)
    ):
        raise BadPredictions(f"{where}: scores must be {len(names)} ratings from 1 to {RATINGS}, or null")
    for column in ("correct", "meta"):
        value = row.get(column)
        if value is not None and not math.isfinite(value):
            raise BadPredictions(f"{where}: {column} is {value}, not a finite number")
    if not isinstance(row.get("counted"), bool):
        raise BadPredictions(f"{where}: counted is {row.get('counted')!r}, not true or false")
    _check_text(row.get("text"), f"{where}: text")
    _check_text(row.get("reason"), f"{where}: reason")
    return {"correct": None, "meta": None, **row}


def _check_once(scored: Sequence[Mapping[str, Any]]) -> None:
    """A response has one vote a sample."""
    seen: set[_Key] = set()
    for row in scored:
        for name in row["responses"]:
            if (key := (name, row["sample"])) in seen:
                raise BadPredictions(
                    f"trajectories.parquet: {name} is scored twice in sample {row['sample']}"
                )
            seen.add(key)


def _joint(row: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    """The row with its counts as [wins, ties, losses], of all trajectories and of those that showed a first."""
    every: list[Any] = [row.get(name) for name in ("wins", "ties", "losses")]
    first: list[Any] = [row.get(f"order_a_first_{name}") for name in ("wins", "ties", "losses")]
    parts = zip(first, every, strict=True)
    if not all(_counts(whole) and _counts(part, below=whole + 1) for part, whole in parts):
        raise BadPredictions(
            f"joint.parquet, row {number} ({row.get('response_a')}, {row.get('response_b')}): the votes with a shown "
            "first are a part of all votes; both are counts"
        )
    return {**row, "every": every, "first": first}


def _counts(value: Any, *, below: float = 2**31) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below


def _check_text(value: Any, where: str) -> None:
    if value is not None and not (isinstance(value, str) and len(value) <= TEXT_LENGTH):
        raise BadPredictions(f"{where} must be a text of at most {TEXT_LENGTH:,} characters")


def _text(value: str | None) -> str:
    """PostgreSQL's texts have no NUL."""
    return (value or "").replace("\0", "\ufffd")
