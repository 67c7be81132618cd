"""The report of an import: what was found, written and left out. Also the names of the files an import writes."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, TextIO

from webapp.importing.reading import ImportRefused, Problem, printable

SHOWN_ERRORS = 50
# With more rows left out than this the file is not what it is taken for; the import is refused.
MAX_LEFT_OUT = 10_000
MAX_ERRORS_BYTES = 4 * 1024 * 1024
MAX_KIND = 80
# What an import itself writes into its folder, beside the files.
ERRORS = "errors.jsonl"
PROGRESS = "progress.json"
PREVIEW_FILE = "preview.json"
SURVEY_FILE = "survey.json"
OWN_FILES = {ERRORS, PROGRESS, PREVIEW_FILE, SURVEY_FILE}


@dataclass
class Report:
    """What an import found and did. `counts[record_type]` has found, new, present (and changed, for labels)."""

    format: str = ""
    dry_run: bool = True
    files: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    rows: int = 0
    left_out: int = 0
    # Columns that the format did not use, and what was done to texts on the way (see shapes.tracking), by rows.
    unused: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    # Rows whose prompt had come with an earlier row.
    merged_prompts: int = 0
    # What the votes and levels say that come: {"votes": {verdict: number}, "levels": {level: number}}.
    says: dict[str, dict[str, int]] = field(default_factory=dict)
    # The first items with their whole texts; they are kept beside the files, not in the row.
    preview: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, record_type: str, what: str, number: int = 1) -> None:
        counts = self.counts.setdefault(record_type, {"found": 0, "new": 0, "present": 0, "changed": 0})
        counts[what] += number

    def say(self, record_type: str, what: str) -> None:
        said = self.says.setdefault(record_type, {})
        said[what] = said.get(what, 0) + 1

    @property
    def found(self) -> int:
        return sum(counts["found"] for counts in self.counts.values())

    @property
    def new(self) -> int:
        return sum(counts["new"] + counts["changed"] for counts in self.counts.values())

    def as_json(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "dry_run": self.dry_run,
            "files": self.files,
            "counts": self.counts,
            "rows": self.rows,
            "left_out": self.left_out,
            "unused": self.unused,
            "notes": self.notes,
            "errors": self.errors,
            "merged_prompts": self.merged_prompts,
            "says": self.says,
            "seconds": round(self.seconds, 2),
        }


class Problems:
    """Rows left out: they go to errors.jsonl, the first ones into the report. One problem per row.

    There are bounds: a file of which too much is left out is refused with what was seen.
    """

    def __init__(self, file: TextIO, report: Report) -> None:
        self._file, self._report = file, report
        # At most MAX_LEFT_OUT of them.
        self._rows: set[tuple[str, int | None]] = set()
        self._kinds: Counter[tuple[str, str]] = Counter()
        self._written = 0
        self.first: Problem | None = None

    def add(self, problem: Problem) -> None:
        key = (problem.file, problem.row)
        if key in self._rows:
            return
        if len(self._rows) >= MAX_LEFT_OUT:
            raise ImportRefused(self._too_many(problem))
        self._rows.add(key)
        self._kinds[(problem.field[:MAX_KIND], problem.message[:MAX_KIND])] += 1
        self.first = self.first or problem
        self._report.left_out += 1
        row = {
            name: printable(value) if isinstance(value, str) else value
            for name, value in problem._asdict().items()
        }
        if len(self._report.errors) < SHOWN_ERRORS:
            self._report.errors.append(row)
        if self._written < MAX_ERRORS_BYTES:
            line = json.dumps(row, ensure_ascii=False) + "\n"
            self._written += len(line.encode())
            self._file.write(line)
            if self._written >= MAX_ERRORS_BYTES:
                self._note(
                    f"The list ends here, at {MAX_ERRORS_BYTES // 2**20} MB; further rows are counted only."
                )

    def _note(self, message: str) -> None:
        note = {"file": "", "row": None, "field": "", "message": message, "remedy": "Mend these first."}
        self._file.write(json.dumps(note, ensure_ascii=False) + "\n")

    def _too_many(self, problem: Problem) -> str:
        self._note(f"The import stopped here: more than {MAX_LEFT_OUT:,} rows were left out.")
        seen = "; ".join(
            f"{count:,} × {f'“{field}” ' if field else ''}{message.rstrip('.')}"
            for (field, message), count in self._kinds.most_common(3)
        )
        return (
            f"More than {MAX_LEFT_OUT:,} rows had to be left out, up to row {problem.row or 0:,} of {problem.file}. "
            f"Most often: {seen}. The first: {self.first} Mend the files, or choose their format."
        )


def shorten(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
