"""How good the reward models are on public data: one table, then sentences computed from it.

    python -m benchmarks.quality [--only SECTION ...] [--seeds 0 1 2] [--quick] [--json FILE] [--cache DIR] [--jobs N]

Groups (debates, questions, documents, texts) are held out as a whole, in folds drawn once; fold k is trained with
seed k mod the number of seeds. Figures pool the held-out rows of all folds, intervals draw whole groups, and
differences between variants are taken row by row on the same folds. Every run is an ordinary run folder, kept in
--cache by its data, configuration and code: an interrupted benchmark goes on where it stopped.

"tuned" trains all weights of the MiniLM and stands where the bars ask for it; the many-celled comparisons train heads
on its frozen embeddings, so they rank methods, and say little about the level that a tuned model would reach.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cells import (
    Estimate,
    code_digest,
    load_cell,
    run_cells,
)
from benchmarks.datasets import DATA
from benchmarks.quality import methods, settings
from benchmarks.quality.figures import (
    Plan,
    Results,
    Section,
    row_of,
)
from benchmarks.quality.table import print_table
from workers.rewards.evaluation import metrics

SECTIONS: dict[str, Callable[[Plan], Section]] = {
    "ukp_strict": methods.strict,
    "votes": methods.votes,
    "humor": methods.humor,
    "qa": methods.qa,
    "mlqe": methods.mlqe,
    "haf": methods.haf,
    "noise": methods.noise,
    "frozen": settings.frozen,
    "reliability": settings.reliability,
    "regions": settings.regions,
    "defaults": settings.defaults,
    "level_terms": settings.level_terms,
    "haf_weights": settings.haf_weights,
    "qa_tuned": methods.qa_tuned,
    "training": settings.training,
    "pooling": settings.pooling,
    "topics": settings.topics,
    "larger": settings.larger,
}
# Slower than what they tell is worth.
ON_REQUEST = (
    "haf_weights",
    "qa_tuned",
    "training",
    "pooling",
    "topics",
    "larger",
)


def plain(value: Any) -> Any:
    """For JSON."""
    return vars(value) if isinstance(value, Estimate) else value


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    standard = [name for name in SECTIONS if name not in ON_REQUEST]
    parser.add_argument(
        "--only", nargs="+", choices=list(SECTIONS), default=standard, help=f"default: {' '.join(standard)}"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--quick", action="store_true", help="two folds, fewer pairs and epochs: does it work?"
    )
    parser.add_argument("--json", type=Path, help="also write rows and sentences here")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "caliper-quality")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes, one thread each")
    parser.add_argument("--encoder", default=Plan.encoder, help="hub id or path, for section larger")
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"{DATA} is not there: the benchmark reads the public data from it", file=sys.stderr)
        return 2
    started = time.monotonic()
    plan = Plan(options.seeds, options.quick, options.encoder)
    sections = [SECTIONS[name](plan) for name in options.only]
    cells = {
        cell.key: cell
        for section in sections
        for variant in section.variants
        for cell in variant.cells
        if not cell.missing
    }
    failed = run_cells(cells.values(), options.cache, options.jobs)

    rows: list[dict[str, Any]] = []
    said: dict[str, list[str]] = {}
    for section in sections:
        results = Results()
        lines: list[str] = []
        for variant in section.variants:
            missing = sorted({name for cell in variant.cells for name in cell.missing})
            errors = [failed[cell.key] for cell in variant.cells if cell.key in failed]
            if missing:
                lines.append(f"{variant.name}: not run, this version knows no {', '.join(missing)}.")
            elif errors:
                lines.append(f"{variant.name}: not run, {errors[0]}")
            else:
                folds = [load_cell(cell, options.cache) for cell in variant.cells]
                results.folds[variant.name], results.levels[variant.name] = folds, variant.levels
                rows.append(row_of(section.name, variant, folds))
        said[section.name] = lines + section.conclude(results)

    print(
        f"Caliper, quality: seeds {' '.join(map(str, plan.seeds))}, code {code_digest()[:12]}, "
        f"{time.monotonic() - started:.0f} s now{', QUICK: no figure means anything' if plan.quick else ''}. "
        "Accuracy over decisive votes with 95 % intervals over groups; near-equal: under "
        f"{metrics.NEAR_EQUAL_LENGTH} characters apart; NLL and Brier against vote shares after calibration on other "
        "held-out groups, people's own floor in brackets; people: one person against the majority of the others."
    )
    print_table(rows, {section.name: section.title for section in sections})
    for section in sections:
        print(f"\n{section.name}: {section.title}")
        for line in said[section.name]:
            print(f"- {line}")
    unhelpful = [
        line for lines in said.values() for line in lines if "no difference shown" in line or "HURTS" in line
    ]
    print(f"\nNo help shown, or harm, in {len(unhelpful)} of {sum(map(len, said.values()))} statements:")
    for line in unhelpful:
        print(f"- {line}")
    if options.json:
        report = {
            "seeds": plan.seeds,
            "quick": plan.quick,
            "code": code_digest(),
            "rows": [{name: plain(value) for name, value in row.items()} for row in rows],
            "sentences": said,
        }
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
