"""An export whose held-out rows lie apart: two views of one format, each with a file of its own.

Which responses are held out is said by whoever runs the export (workers/held_out.py asks what trainings ask), so that
the split "test" holds what the project's models never learn from.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from webapp.corpus.models import Project
from webapp.jobs import JobFailed
from webapp.snapshots.reading import CHUNK, Judgements, Levels
from webapp.snapshots.services import Watch, snapshot_freeze

# The external ids of the held-out responses of a snapshot's folder, by a project's salt.
HeldOut = Callable[[Path, str], frozenset[str]]
BOTH_SIDES = "both sides"


def held_out_keys(project: Project, held_out: HeldOut) -> frozenset[int]:
    """The keys of the responses that are held out now, inside a consistent read. Raises JobFailed if there are none."""
    ids = held_out(snapshot_freeze(project).path, project.split_salt)
    keys = project.responses.values_list("external_id", "pk").iterator(CHUNK)
    found = frozenset(pk for external_id, pk in keys if external_id in ids)
    if not found:
        raise JobFailed(
            "Too few groups or prompts have labels to hold any out. Export all rows together, or label more prompts."
        )
    return found


class Divided(Watch):
    """Passes rows on to one of two, by whether their responses are held out; those of both kinds are left out."""

    def __init__(
        self, train: Watch, test: Watch, held_out: frozenset[int], counted: Callable[[int], None]
    ) -> None:
        self.sides, self.held_out, self.counted = (train, test), held_out, counted
        self.superseded, self.machines = train.superseded, train.machines
        self.left_out: Counter[str] = Counter()
        self.seen = 0

    def judgements(self, rows: Judgements, ids: Sequence[str]) -> None:
        held = self.held_out
        found = [(a in held) + (b in held) for a, b in zip(rows.a, rows.b, strict=True)]
        for watch, side in zip(self.sides, (0, 2), strict=True):
            if chosen := [row for row, each in enumerate(found) if each == side]:
                watch.judgements(rows.of(chosen), [ids[row] for row in chosen])
        self.left_out[BOTH_SIDES] += found.count(1)
        self.seen += len(ids)
        self.counted(self.seen)

    def levels(self, rows: Levels) -> None:
        found = [response in self.held_out for response in rows.response]
        for watch, side in zip(self.sides, (False, True), strict=True):
            if chosen := [row for row, each in enumerate(found) if each is side]:
                watch.levels(rows.of(chosen))
