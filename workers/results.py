"""Reading what a training left in its folder; anything damaged is refused before it can serve."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from webapp.jobs import JobFailed

FORMAT = 1
KINDS = ("scalar", "ordinal")
MOST_BYTES = 2 * 1024**3  # of a file of votes, whose rows are all held at once
AGAIN = "The old version keeps serving; start a new run."


class BadResult(JobFailed):
    """A file of the run's folder is missing or damaged. The message says which, and what to do."""


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, its NaN and infinities as None (databases refuse them)."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadResult(f"The training ended without writing {path.name}. {AGAIN}") from None
    except ValueError as error:
        raise BadResult(f"{path.name} is damaged ({error}). {AGAIN}") from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise BadResult(f"{path.name} is not of format {FORMAT}. {AGAIN}")
    return _finite(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_metrics(folder: Path) -> dict[str, Any]:
    """metrics.json. Raises BadResult."""
    return _object(folder / "metrics.json")


def read_artifact(model: Path, *, method: str) -> dict[str, Any]:
    """model/reward_config.json, with every file's sha256 compared. Raises BadResult."""
    config = _object(model / "reward_config.json")
    if config.get("method") != method or config.get("kind") not in KINDS:
        raise BadResult(
            f"reward_config.json is of method {config.get('method')!r} and kind {config.get('kind')!r}, "
            f"not of {method}. {AGAIN}"
        )
    files = config.get("files")
    if not isinstance(files, dict) or not files:
        raise BadResult(f"reward_config.json names no files. {AGAIN}")
    for name, expected in files.items():
        path = model / Path(name).name
        if not path.is_file():
            raise BadResult(f"The trained model lacks {name}. {AGAIN}")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise BadResult(
                f"The trained model is damaged: {name} is not what was saved (its sha256 differs). {AGAIN}"
            )
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    if config.get("digest") != digest:
        raise BadResult(
            f"The trained model is damaged: reward_config.json's digest is not that of its files. {AGAIN}"
        )
    for name in ("tie", "temperature"):
        value = config.get(name)
        if not (isinstance(value, (int, float)) or (value is None and name == "tie")):
            raise BadResult(f"reward_config.json: {name} is {value!r}, not a number. {AGAIN}")
    return config


def read_predictions(folder: Path) -> list[dict[str, Any]]:
    """Rows of predictions.parquet. Raises BadResult."""
    columns = ["response_id", "score", "expected", "spread", "p", "split", "truncated"]
    return _rows(folder / "predictions.parquet", columns)


class VoteRows(NamedTuple):
    """What a model that writes its judgement left of its votes: rows as webapp.ratings.services.votes_store wants."""

    trajectories: list[dict[str, Any]]
    critiques: list[dict[str, Any]]
    joint: list[dict[str, Any]]


def read_votes(folder: Path) -> VoteRows:
    """Rows of trajectories.parquet (of stage “score”), critiques.parquet and joint.parquet. Raises BadResult."""
    trajectories = ["stage", "responses", "sample", "text", "scores", "reason", "correct", "counted", "meta"]
    critiques = ["response_id", "sample", "rating", "principles", "critique", "median"]
    joint = ["response_a", "response_b", "wins", "ties", "losses"]
    joint += [f"order_a_first_{name}" for name in ("wins", "ties", "losses")]
    return VoteRows(
        _rows(folder / "trajectories.parquet", trajectories, stage="score"),
        _rows(folder / "critiques.parquet", critiques),
        _rows(folder / "joint.parquet", joint),
    )


def _rows(path: Path, columns: list[str], **where: str) -> list[dict[str, Any]]:
    """These columns of a Parquet file's rows, of which each named column has the value. Raises BadResult."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    filters = [(name, "=", value) for name, value in where.items()]
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadResult(
                f"{path.name} has more than {MOST_BYTES // 1024**3} GiB. Choose fewer samples. {AGAIN}"
            )
        rows: list[dict[str, Any]] = pq.read_table(path, columns=columns, filters=filters or None).to_pylist()
    except FileNotFoundError:
        raise BadResult(f"The training ended without writing {path.name}. {AGAIN}") from None
    except (pa.ArrowException, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadResult(f"{path.name} is damaged ({first}). {AGAIN}") from None
    return rows
