"""A snapshot's three tables, read and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..config import Refused
from ..objectives.outcomes import MAX_STRENGTH
from ..scale import LEVEL_INDEX
from .messages import checked

VERDICTS = ("a", "b", "tie", "both_bad")
ANONYMOUS = "anonymous"

_COLUMNS = {
    "responses": ("response_id", "prompt_id", "group", "messages", "text"),
    "judgements": ("judgement_id", "response_a", "response_b", "verdict", "strength", "annotator"),
    "levels": ("label_id", "response_id", "level", "annotator"),
}
# The tools of a prompt, and the messages of a response with several turns or tool calls (its text is their transcript);
# which response stood left ("a" or "b"), how many votes a row stands for, and whether a machine annotator gave it, for
# projects that learn from those. Older snapshots lack them.
_OPTIONAL = {"responses": ("tools", "answer"), "judgements": ("left", "weight", "machine")}
_JSON = ("messages", "tools", "answer")
_TYPES = {"strength": pa.int8(), "weight": pa.float64(), "machine": pa.bool_()}


@dataclass(frozen=True)
class Snapshot:
    """Rows of the three tables as plain dicts; `messages`, `tools` and `answer` already parsed."""

    responses: list[dict[str, Any]]
    judgements: list[dict[str, Any]]
    levels: list[dict[str, Any]]

    @property
    def index(self) -> dict[str, int]:
        """Row of each response id."""
        return {row["response_id"]: number for number, row in enumerate(self.responses)}


def of_people(judgements: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Those that people gave. A model may learn from machine annotators, and is never measured on them."""
    return (row for row in judgements if not row.get("machine"))


def write_snapshot(
    folder: Path,
    responses: list[dict[str, Any]],
    judgements: list[dict[str, Any]],
    levels: list[dict[str, Any]] | None = None,
) -> None:
    """The three tables of a snapshot from plain rows, for use without the web application.

    Missing columns become null; `messages` may be a list; absent group means prompt, absent annotator "anonymous".
    """
    folder.mkdir(parents=True, exist_ok=True)
    for table, rows in (("responses", responses), ("judgements", judgements), ("levels", levels or [])):
        filled = []
        for number, row in enumerate(rows):
            row = {"annotator": ANONYMOUS, **row}
            if table == "responses":
                row = {"messages": [], **row}
                row |= {k: json.dumps(row[k]) for k in _JSON if not isinstance(row.get(k, ""), str)}
                row.setdefault("group", row["prompt_id"])
            else:
                row.setdefault("judgement_id" if table == "judgements" else "label_id", str(number))
            filled.append({name: row.get(name) for name in _columns(table)})
        schema = pa.schema([(name, _TYPES.get(name, pa.string())) for name in _columns(table)])
        pq.write_table(pa.Table.from_pylist(filled, schema), folder / f"{table}.parquet")


def read_snapshot(folder: Path) -> Snapshot:
    """Read and check responses, judgements and levels. Raises Refused naming the file, row and field."""
    responses = _read(folder, "responses")
    judgements = _read(folder, "judgements")
    levels = _read(folder, "levels")
    if not responses:
        raise Refused(f"{folder / 'responses.parquet'} holds no response; import some, then snapshot again")
    known: set[str] = set()
    group_of: dict[str, str] = {}
    for number, row in enumerate(responses):
        where = f"responses.parquet row {number}"
        for name in ("response_id", "prompt_id", "group", "text"):
            if not isinstance(row[name], str):
                raise Refused(f"{where}: {name} must be a string, not {row[name]!r:.60}")
        if row["response_id"] in known:
            raise Refused(f"{where}: response_id {row['response_id']!r} stands twice")
        known.add(row["response_id"])
        if (first := group_of.setdefault(row["prompt_id"], row["group"])) != row["group"]:
            # the split by group would put one prompt on both of its sides
            raise Refused(
                f"{where}: prompt_id {row['prompt_id']!r} stands in the groups {first!r} and {row['group']!r}"
            )
        try:
            row["messages"] = checked(_parsed(row["messages"]))
            row["tools"] = _parsed(row["tools"]) or []
            answer = _parsed(row["answer"])
            row["answer"] = None if answer is None else checked(answer, "answer")
        except ValueError as error:
            raise Refused(f"{where}: {error}") from None
        if not isinstance(row["tools"], list):
            raise Refused(f"{where}: tools must be a JSON list")
    for number, row in enumerate(judgements):
        where = f"judgements.parquet row {number}"
        for name in ("response_a", "response_b"):
            if row[name] not in known:
                raise Refused(f"{where}: {name} {row[name]!r} is not in responses.parquet")
        if row["verdict"] not in VERDICTS:
            raise Refused(f"{where}: verdict {row['verdict']!r} is none of {', '.join(VERDICTS)}")
        if row["strength"] is not None and not 1 <= row["strength"] <= MAX_STRENGTH:
            raise Refused(f"{where}: strength {row['strength']} is outside 1..{MAX_STRENGTH}")
        if row["response_a"] == row["response_b"]:
            raise Refused(f"{where}: response {row['response_a']!r} is compared with itself")
        if row["left"] not in (None, "a", "b"):
            raise Refused(f"{where}: left {row['left']!r} is neither a nor b")
        if row["weight"] is not None and not (row["weight"] > 0 and math.isfinite(row["weight"])):
            raise Refused(f"{where}: weight {row['weight']} must be a positive number")
    for number, row in enumerate(levels):
        where = f"levels.parquet row {number}"
        if row["response_id"] not in known:
            raise Refused(f"{where}: response_id {row['response_id']!r} is not in responses.parquet")
        if row["level"] not in LEVEL_INDEX:
            raise Refused(f"{where}: level {row['level']!r} is none of {', '.join(LEVEL_INDEX)}")
    return Snapshot(responses, judgements, levels)


def _columns(table: str) -> tuple[str, ...]:
    return _COLUMNS[table] + _OPTIONAL.get(table, ())


def _read(folder: Path, table: str) -> list[dict[str, Any]]:
    path = folder / f"{table}.parquet"
    try:
        names = pq.read_schema(path).names
        missing = [name for name in _COLUMNS[table] if name not in names]
        if missing:
            raise Refused(f"{path} lacks the column {missing[0]!r}; snapshot the project again")
        present = [name for name in _columns(table) if name in names]
        empty = dict.fromkeys(_columns(table))
        return [empty | row for row in pq.read_table(path, columns=present).to_pylist()]
    except FileNotFoundError:
        raise Refused(f"{path} does not exist; snapshot the project again") from None
    except (OSError, pa.ArrowException) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Refused(f"{path} is damaged ({first_line}); snapshot the project again") from None


def _parsed(value: Any) -> Any:
    """A JSON text's value. Raises ValueError."""
    return json.loads(value) if isinstance(value, str) else value
