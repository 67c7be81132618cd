"""What the quality benchmark computes by itself: changes of the training side, cut points, estimates, kept runs."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cells, datasets
from benchmarks.cells import Cell, Measured, cut_point_masses, fit_cut_points, ratio, uncalibrated
from benchmarks.datasets import Rows
from workers.rewards.models.calibration import Calibration

WORDS = ("no", "water it", "water it weekly and give it light")


def plants(groups: int = 8) -> Rows:
    """Three answers a group, the longer the better, judged by two people; levels by one."""
    responses, judgements, levels = [], [], []
    for group in range(groups):
        for quality, words in enumerate(WORDS):
            name = f"{group}-{quality}"
            responses.append(
                {
                    "response_id": name,
                    "prompt_id": f"p{group}",
                    "group": f"g{group}",
                    "text": f"{words} {group}",
                }
            )
            levels.append({"response_id": name, "level": ("bad", "normal", "good")[quality]})
        for person in ("ann", "ben"):
            for a, b in ((0, 1), (1, 2), (2, 0)):
                verdict = "tie" if (a, b) == (0, 1) and person == "ben" else "a" if a > b else "b"
                judgements.append(
                    {
                        "response_a": f"{group}-{a}",
                        "response_b": f"{group}-{b}",
                        "verdict": verdict,
                        "annotator": person,
                    }
                )
    return Rows(responses, judgements, levels)


HELD_OUT = frozenset({"g0", "g1"})


def split(rows: Rows) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Judgements of the held-out side and of the training side."""
    outside = [row for row in rows.judgements if f"g{row['response_a'].split('-')[0]}" in HELD_OUT]
    return outside, [row for row in rows.judgements if row not in outside]


@pytest.mark.parametrize(
    "change", [datasets.flip_verdicts, datasets.add_spammers, datasets.keep_levels, datasets.keep_pairs]
)
def test_changes_leave_the_held_out_side_alone(change) -> None:  # type: ignore[no-untyped-def]
    before, after = plants(), change(plants(), HELD_OUT, 0.5, seed=3)
    assert split(after)[0] == split(before)[0]
    assert [r for r in after.levels if r["response_id"][0] in "01"] == before.levels[:6]
    assert after != before
    assert change(plants(), HELD_OUT, 0.5, seed=3) == after


def test_flipping_all_turns_every_decisive_verdict() -> None:
    _, training = split(datasets.flip_verdicts(plants(), HELD_OUT, 1.0, seed=0))
    _, original = split(plants())
    turned = {"a": "b", "b": "a", "tie": "tie"}
    assert [row["verdict"] for row in training] == [turned[row["verdict"]] for row in original]


def test_spammers_make_up_the_share_that_was_asked_for() -> None:
    rows = datasets.add_spammers(plants(200), HELD_OUT, 0.2, seed=0)
    _, training = split(rows)
    spam = Counter(row["annotator"].startswith("spammer") for row in training)
    assert spam[True] / spam.total() == pytest.approx(0.2, abs=0.03)
    known = {(row["response_a"], row["response_b"]) for row in plants(200).judgements}
    assert {(row["response_a"], row["response_b"]) for row in training} <= known


def test_levels_and_pairs_are_kept_by_response() -> None:
    levels = datasets.keep_levels(plants(), HELD_OUT, 0.5, seed=0).levels
    assert len(levels) == 6 + 9  # all of two held-out groups, half of the eighteen others
    pairs = datasets.keep_pairs(plants(), HELD_OUT, 0.0, seed=0)
    assert split(pairs)[1] == []
    assert pairs.levels == plants().levels


def test_both_bad_is_said_of_pairs_of_two_bad_ones_alone() -> None:
    rows = plants()
    rows.levels.extend({"response_id": name, "level": "bad"} for name in ("3-1", "3-1", "4-1", "0-1", "0-1"))
    _, before = split(rows)
    changed = datasets.call_both_bad(rows, HELD_OUT, 1.0, seed=0)
    outside, training = split(changed)
    assert outside == split(rows)[0]  # "0-1" is bad too, but held out
    for row, old in zip(training, before, strict=True):
        # two of three labels of 3-1 say bad, one of two of 4-1
        expected = "both_bad" if {row["response_a"], row["response_b"]} == {"3-0", "3-1"} else old["verdict"]
        assert row["verdict"] == expected


def test_cut_points_recover_an_ordinal_logistic_model() -> None:
    rng = np.random.default_rng(0)
    reward = rng.normal(5, 3, size=20_000)
    noisy = 0.8 * reward + rng.logistic(size=len(reward))
    level = np.digitize(noisy, [2.0, 5.0])
    assert fit_cut_points(reward, level) == pytest.approx((2.0, 5.0, 0.8), abs=0.12)
    masses = cut_point_masses(np.array([-100.0, 4.4, 100.0]), (2.0, 5.0, 0.8))
    assert masses.sum(axis=1) == pytest.approx(1.0)
    assert masses.argmax(axis=1).tolist() == [0, 1, 2]


def test_cut_points_stay_finite_where_rewards_say_nothing_or_everything() -> None:
    level = np.array([0, 0, 1, 1, 2, 2])
    assert np.isfinite(fit_cut_points(np.zeros(6), level)).all()
    assert np.isfinite(fit_cut_points(np.arange(6.0), level)).all()
    masses = cut_point_masses(np.arange(6.0), fit_cut_points(np.arange(6.0), np.zeros(6, dtype=np.int64)))
    assert masses.argmax(axis=1).tolist() == [0] * 6


def test_uncalibrated_undoes_the_beta_map() -> None:
    p = np.random.default_rng(0).dirichlet(np.full(9, 0.3), size=200)
    map_ = Calibration("beta_cdf", {"a": 0.6, "b": 1.4, "c": -0.3})
    assert np.abs(uncalibrated(map_.ratings(p), map_) - p).max() < 1e-6
    assert np.array_equal(uncalibrated(p, Calibration()), p)


def test_ratio_is_the_mean_and_its_interval_draws_whole_clusters() -> None:
    value = np.repeat([0.0, 1.0, 0.0, 1.0], 25)
    cluster = np.repeat(["a", "b", "c", "d"], 25)
    whole = ratio(value, np.ones(100), cluster)
    single = ratio(value, np.ones(100), np.arange(100).astype(str))
    assert whole.value == single.value == 0.5
    assert whole.n == 100
    assert whole.low is not None
    assert single.low is not None
    assert whole.low < single.low
    alone = ratio(value, np.ones(100), np.repeat("a", 100))
    assert (alone.low, alone.high, alone.excludes_zero) == (None, None, False)


@pytest.mark.parametrize("method", ["bt", "rgft"])
def test_a_cell_is_trained_once_and_measures_as_metrics_json_does(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cells.LOADERS, "plants", plants)
    monkeypatch.setenv("CALIPER_CACHE_DIR", str(tmp_path / "embeddings"))
    config = {
        "method": method,
        "tuning": "frozen",
        "epochs": 3,
        "held_out_groups": sorted(HELD_OUT),
        "seed": 1,
    }
    cell = Cell({"load": "plants", "change": {"levels": 0.5}}, config)
    assert cell.missing == []
    cells.run_cell(cell, tmp_path)
    kept = tmp_path / cell.key
    assert not (tmp_path / f"{cell.key}.run").exists()
    stamp = (kept / "arrays.npz").stat().st_mtime_ns
    assert cells.run_cell(cell, tmp_path) == 0.0
    assert (kept / "arrays.npz").stat().st_mtime_ns == stamp

    fold = cells.load_cell(cell, tmp_path)
    pairs = fold.metrics["held_out"]["pairs"]
    assert len(fold.first) == pairs["n"] == 6
    assert fold.votes.sum() == pairs["accuracy"]["n"]
    assert fold.right_by_length.sum() / fold.votes.sum() == pytest.approx(pairs["length_baseline"]["value"])
    assert set(fold.cluster) == HELD_OUT
    assert len(fold.level) == 6
    assert np.allclose(fold.level_cut[:2].sum(axis=2), 1)  # 5 % of nine labelled responses are none
    assert np.isfinite(fold.level_own).all()  # a scalar reward has cut points
    if method == "bt":  # whatever calibration does, it keeps the order of rewards
        assert fold.right.sum() / fold.votes.sum() == pytest.approx(pairs["accuracy"]["value"])


def test_the_key_of_a_cell_depends_on_data_and_configuration() -> None:
    base = Cell({"load": "mlqe", "language_pair": "ro-en"}, {"method": "bt", "held_out_groups": ["a"]})
    others = [
        Cell({**base.data, "language_pair": "en-de"}, base.config),
        Cell(base.data, {**base.config, "method": "oprm"}),
        Cell(base.data, {**base.config, "no_such_key": 1}),
    ]
    assert len({base.key, *(cell.key for cell in others)}) == 4
    assert others[-1].missing == ["no_such_key"]


def test_rps_of_measured_agrees_with_evaluate() -> None:
    from workers.rewards.evaluation import metrics

    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(9), size=40)
    level = rng.integers(0, 3, size=40)
    empty = np.zeros(0)
    blank = {field.name: empty for field in dataclasses.fields(Measured)}
    fold = Measured(**{**blank, "level": level, "metrics": {}})  # type: ignore[arg-type]
    expected = metrics.level_scores(metrics.level_masses(p, (3, 6)), level)["rps"]
    assert fold.rps(metrics.level_masses(p, (3, 6))).mean() == pytest.approx(expected)
