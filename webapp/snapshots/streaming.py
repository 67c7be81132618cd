"""The rows of an export as they are read: JSONL or CSV for whoever asks over the API, without a file and a worker.

The same views and writers make the files of exports (webapp.snapshots.exporting), so the rows are the same. No snapshot
is taken, since that needs pyarrow, which the web process has not.
"""

import io
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from webapp.corpus.models import Project
from webapp.labels.models import Judgement
from webapp.labels.summaries import newest_labels
from webapp.snapshots.exporting import ExportRefused, check_choice
from webapp.snapshots.formats import FORMATS, Choice, View, choice_of
from webapp.snapshots.models import Export
from webapp.snapshots.reading import consistent_read, judgement_batches, judgement_ids, level_batches
from webapp.snapshots.writing import text_sink

# A reader who is slower than this holds up what the database cleans away, and is cut off.
LONGEST_SECONDS = 3600.0


@dataclass
class Streamed:
    """An export on its way. `rows`, `left_out` and `changed` are whole once `chunks` has ended.

    labels: names the state of the labels that are read; two exports with equal ones hold the same labels.
    """

    chunks: Iterator[bytes]
    labels: str = ""
    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)


def stream_check(project: Project, *, format: str, file_type: str, version: str) -> None:
    """Raises ExportRefused for what can't be streamed as it is asked for."""
    check_choice(format, file_type)
    if file_type == Export.FileType.PARQUET:
        raise ExportRefused("Parquet is no stream. Choose JSONL or CSV, or have an export made by a job.")
    if FORMATS[format].versions is not None:
        # It looks its versions up.
        FORMATS[format].view(Choice(project, version=version))
    _check_imports(project)


def _check_imports(project: Project) -> None:
    if project.imports.unfinished().exists():
        raise ExportRefused("An import of the project is being written. Try again when it has ended.")


def export_stream(
    *,
    project: Project,
    format: str,
    file_type: str,
    aggregation: str,
    superseded: bool = False,
    safe_for_spreadsheets: bool = False,
    version: str = "",
) -> Streamed:
    """Begin an export that `stream_check` has let pass. Memory is bounded by a batch.

    All of it is read at one moment, in a read that is open until `chunks` ends or is closed: nothing can be written
    meanwhile. Raises ExportRefused before the first byte.
    """
    found = Streamed(iter(()))

    def chunks() -> Iterator[bytes]:
        deadline = time.monotonic() + LONGEST_SECONDS
        with consistent_read():
            _check_imports(project)
            found.labels = "-".join(map(str, newest_labels(project)))
            choice = choice_of(project, aggregation=aggregation, superseded=superseded, version=version)
            view = FORMATS[format].view(choice)
            found.left_out, found.changed = view.left_out, view.changed
            piece = io.BytesIO()
            is_csv = file_type == Export.FileType.CSV
            sink = text_sink(piece, view.schema, is_csv=is_csv, safe=safe_for_spreadsheets)
            yield b""
            for batch in _batches(view, is_canonical=format == Export.Format.JUDGEMENTS):
                if time.monotonic() > deadline:
                    raise TimeoutError("The export was read too slowly.")
                sink.write(batch)
                found.rows = sink.rows
                yield piece.getvalue()
                piece.seek(0)
                piece.truncate()
            # The names of the columns, where there was no row.
            yield piece.getvalue()

    found.chunks = chunks()
    # Up to the first piece, which is empty: what is refused is refused now.
    next(found.chunks)
    return found


def _batches(view: View, *, is_canonical: bool) -> Iterator[Any]:
    """What the view makes of the labels, in the order and with the labels of an export's file."""
    project, names = view.project, view.names
    yield from view.begin()
    superseded = view.choice.superseded and is_canonical
    judgements = Judgement.objects.all() if superseded else Judgement.objects.current_of_all()
    # One row a judgement, with who gave it: the only format that machines' stand in.
    for rows in judgement_batches(judgements if is_canonical else judgements.of_people(), project, names):
        yield from view.judgements(rows, judgement_ids(rows, names))
    for levels in level_batches(project, names):
        yield from view.levels(levels)
    yield from view.end()
