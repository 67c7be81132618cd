"""The table that the quality benchmark prints."""

from __future__ import annotations

from typing import Any

from benchmarks.cells import (
    Estimate,
)

COLUMNS = (
    "variant",
    "runs",
    "n",
    "accuracy",
    "longer wins",
    "near-equal",
    "people",
    "NLL before",
    "NLL",
    "Brier",
    "ECE before",
    "ECE after",
    "tie AUROC",
    "level accuracy",
    "kappa",
    "RPS",
    "s/run",
)


def printed(row: dict[str, Any], column: str) -> str:
    """A cell of the table as text; empty where there is nothing to say."""
    value = row.get("accuracy") if column == "n" else row.get(column)
    if value is None:
        return ""
    if column == "n":
        return str(value.n)
    if column in ("NLL", "Brier"):
        return f"{value.value:.3f} ({row[column.lower() + ' floor']:.3f})"
    if isinstance(value, Estimate):
        if column in ("longer wins", "near-equal") or value.low is None:
            return f"{value.value:.3f}"
        return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"
    if isinstance(value, float):
        return f"{value:.0f}" if column == "s/run" else f"{value:.3f}"
    return str(value)


def print_table(rows: list[dict[str, Any]], titles: dict[str, str]) -> None:
    """One markdown table; a section's title is a row of its own."""
    lines = [list(COLUMNS)]
    for number, row in enumerate(rows):
        if number == 0 or rows[number - 1]["section"] != row["section"]:
            lines.append([f"**{row['section']}**: {titles[row['section']]}"])
        lines.append([printed(row, column) for column in COLUMNS])
    whole = [line for line in lines if len(line) == len(COLUMNS)]
    widths = [max(len(line[place]) for line in whole) for place in range(len(COLUMNS))]
    for number, line in enumerate(lines):
        padded = [text.ljust(width) for text, width in zip(line, widths, strict=False)]
        print("| " + " | ".join([*padded, *[""] * (len(COLUMNS) - len(line))]).rstrip() + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
