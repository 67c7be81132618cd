"""What the pages show of measurements: lines of results side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from webapp.benchmarks.charts import CurveChart, curve_chart
from webapp.benchmarks.models import Measurement

COLUMNS = 4


@dataclass(frozen=True)
class Row:
    """A line of the benchmark: its cells (one for each measurement shown, None where it lacks the line)."""

    name: str
    kind: str
    n: int
    length: float | None
    cells: list[dict[str, Any] | None]


@dataclass(frozen=True)
class Comparison:
    """Measurements of one set side by side; `more`: finished ones that have no column."""

    shown: list[Measurement]
    rows: list[Row]
    chart: CurveChart | None
    notes: list[tuple[Measurement, str]]
    more: int


def version_name(measurement: Measurement) -> str:
    version = measurement.version
    return f"{version.short_method} v{version.number}"


def comparison(done: Sequence[Measurement]) -> Comparison:
    """Finished measurements of one set: what serves first, then the newest, as many as a page holds."""
    ordered = sorted(done, key=lambda one: (not one.version.is_serving, -one.version.pk))
    shown = ordered[:COLUMNS]
    lines = [{line["name"]: line for line in one.result["lines"]} for one in shown]
    first = shown[0].result["lines"] if shown else []
    return Comparison(
        shown=shown,
        rows=[
            Row(
                line["name"],
                line["kind"],
                line["n"],
                line["length"],
                [found.get(line["name"]) for found in lines],
            )
            for line in first
        ],
        chart=curve_chart([(version_name(one), one.result["best_of_n"]) for one in shown]),
        notes=[(one, notes) for one in shown if (notes := " ".join(_notes(one.result)))],
        more=len(ordered) - len(shown),
    )


def _notes(result: dict[str, Any]) -> list[str]:
    """What of a measurement a person should know, in plain words."""
    reading, near = result["reading"], result["near_duplicates"]
    notes = []
    if near is None:
        notes.append("Its snapshot is gone, so near-duplicates of its training prompts are not known.")
    elif near["n"]:
        without = near["without"]
        rest = f" Without them the overall figure is {_percent(without['value'])}." if without else ""
        notes.append(f"{near['n']:,} of its prompts are near-duplicates of prompts it was trained on.{rest}")
    if result["tied"]:
        notes.append(
            f"{_percent(result['tied'])} of the comparisons have equal scores; each counts one half."
        )
    if reading["alike"]:
        notes.append(f"{reading['alike']:,} of {reading['compared']:,} comparisons read alike to it.")
    if reading["cut"]:
        notes.append(f"{reading['cut']:,} of {reading['responses']:,} responses were cut to its length.")
    if reading["unknown"] >= 0.05:
        notes.append(f"{_percent(reading['unknown'])} of the tokens are characters that it does not know.")
    return notes


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
