"""Reading what a training left in its folder; anything damaged is refused before it can serve."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from webapp.jobs import JobFailed

FORMAT = 1
KINDS = ("scalar", "ordinal")
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
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "predictions.parquet"
    columns = ["response_id", "score", "expected", "spread", "p", "split", "truncated"]
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, columns=columns).to_pylist()
    except FileNotFoundError:
        raise BadResult(f"The training ended without writing {path.name}. {AGAIN}") from None
    except (pa.ArrowException, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadResult(f"{path.name} is damaged ({first}). {AGAIN}") from None
    return rows
