"""The quality benchmark's own arithmetic and words, on made-up measurements; no training."""

from typing import Any

import numpy as np
import pytest

from benchmarks.cells import Cell, Measured
from benchmarks.datasets import DATA
from benchmarks.quality import figures
from benchmarks.quality.__main__ import SECTIONS
from benchmarks.quality.figures import Plan, Results, Variant, compared, row_of
from benchmarks.quality.table import print_table

GROUPS = 12


def fold(right: float, seed: int = 0, levels: int = 0) -> Measured:
    """1,200 pairs of 12 groups, ordered rightly with probability `right`; every tenth is a tie."""
    rng = np.random.default_rng(0)
    n = 1200
    tied = np.arange(n) % 10 == 0
    wins = np.where(tied, 0.0, (rng.random(n) < 0.5).astype(float))
    losses = np.where(tied, 0.0, 1.0 - wins)
    ordered = np.random.default_rng(seed).random(n) < right
    sign = np.where(ordered, 1.0, -1.0) * np.where(wins > losses, 1.0, -1.0)
    figure = {"value": 0.02, "n": n}
    after = dict.fromkeys(("ece", "ece_equal_mass", "nll", "brier"), figure)
    pairs = {"nll": {"floor": 0.1}, "brier": {"floor": 0.05}, "human_ceiling": None, "n": n}
    metrics: dict[str, Any] = {
        "held_out": {"pairs": pairs, "calibration": {"before": after, "after": after}},
        "training": {"seconds": 3.0},
    }
    masses = np.tile([0.2, 0.5, 0.3], (levels, 1))
    return Measured(
        first=np.array([f"a{i}" for i in range(n)]),
        second=np.array([f"b{i}" for i in range(n)]),
        cluster=np.array([f"g{i % GROUPS}" for i in range(n)]),
        share=np.where(tied, 0.5, wins),
        wins=wins,
        losses=losses,
        ties=tied.astype(float),
        preferred=np.clip(0.5 + 0.3 * sign, 0.01, 0.99),
        p_tie=np.where(tied, 0.4, 0.1),
        difference=sign,
        longer=np.full(n, 10.0),
        level=np.arange(levels) % 3,
        level_cluster=np.array([f"g{i % GROUPS}" for i in range(levels)], dtype=np.str_),
        level_own=masses,
        level_cut=np.tile(masses, (len(figures.CUT_SHARES), 1, 1)),
        metrics=metrics,
    )


def results(**right: float) -> Results:
    folds = {name: [fold(value, seed) for seed in range(3)] for name, value in right.items()}
    return Results(folds, dict.fromkeys(folds))


def test_a_method_that_helps_hurts_or_does_nothing_is_called_so() -> None:
    made = results(good=0.9, plain=0.7)
    assert compared(made, "good", "plain", "accuracy")[0].endswith("helps.")
    assert compared(made, "plain", "good", "accuracy")[0].endswith("HURTS.")
    assert compared(made, "good", "plain", "NLL")[0].endswith("helps.")  # less is better
    assert "no difference shown" in compared(made, "plain", "plain", "accuracy")[0]
    assert compared(made, "plain", "absent", "accuracy") == ["plain against absent: not run."]


def test_differences_are_paired() -> None:
    gap = figures.difference(results(good=0.9, plain=0.7), "good", "plain", figures.accuracy)
    assert gap.value == pytest.approx(0.2, abs=0.03)
    assert gap.n == 3 * 1080  # decisive votes


def test_rows_and_bars(capsys: pytest.CaptureFixture[str]) -> None:
    made = [fold(0.8, seed, levels=60) for seed in range(2)]
    row = row_of("votes", Variant("oprm", []), made)
    assert row["accuracy"].value == pytest.approx(0.8, abs=0.03)
    assert row["longer wins"].n == 2 * 1080
    assert row["tie AUROC"] == 1.0
    assert row["level accuracy"].value == pytest.approx(1 / 3)
    assert row["ECE after"] == 0.02
    print_table([row], {"votes": "made up"})
    table = capsys.readouterr().out.splitlines()
    assert len({line.count("|") for line in table}) == 1
    assert "**votes**: made up" in table[2]
    assert figures.bar("ece", 0.031, 0.03, less=True).endswith("MISSED.")
    assert figures.bar("accuracy", 0.84, 0.84).endswith("reached.")
    assert "not measured" in figures.bar("accuracy", None, 0.84)


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")
def test_every_section_plans_runs_that_this_version_knows() -> None:
    for name, section in SECTIONS.items():
        made = section(Plan([0, 1, 2], quick=False))
        names = [variant.name for variant in made.variants]
        assert made.name == name
        assert len(set(names)) == len(names)
        cells = [cell for variant in made.variants for cell in variant.cells]
        assert all(not cell.missing for cell in cells)
        for variant in made.variants:
            held_out = [set(cell.config["held_out_groups"]) for cell in variant.cells]
            assert sum(map(len, held_out)) == len(set.union(*held_out)), "folds overlap"
            assert {cell.config["seed"] for cell in variant.cells} == {0, 1, 2}
        made.conclude(Results())  # nothing measured: says so, and does not fail


def test_variants_do_not_share_what_they_are_made_of() -> None:
    if not DATA.is_dir():
        pytest.skip("../shared/data is absent")
    cells: list[Cell] = [
        cell for variant in SECTIONS["regions"](Plan([0], False)).variants for cell in variant.cells
    ]
    assert "change" not in cells[0].data
    assert len({cell.key for cell in cells}) == len(cells)
