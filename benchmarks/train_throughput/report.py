"""What the legs of a case say: figures, loss curves, the ratio and its bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.train_throughput.case import Case

TITLES = {"ukp": "UKPConvArg1 strict", "qa_feedback": "qa_feedback", "hh_rlhf": "hh_rlhf harmless"}
# judgements per second over TRL's; UKP's holds for the encoder, the others for both models
BARS = {("ukp", "minilm"): 12.0}
BARS |= {
    (data, model): bar
    for data, bar in (("qa_feedback", 3.0), ("hh_rlhf", 2.0))
    for model in ("minilm", "qwen2")
}
POINTS = 5


def compare(
    case: Case, legs: dict[str, list[dict[str, Any]]], rates: list[tuple[int, str, float]]
) -> dict[str, Any]:
    """Figures of a case: both programs over all their legs, loss curves, ratio and bar."""
    sides = {}
    for side, runs in legs.items():
        timed = [record for run in runs for record in run["records"][1:]]
        seconds = sum(run["records"][-1][0] - run["records"][0][0] for run in runs)
        judged, real, encoded = (sum(record[column] for record in timed) for column in (1, 2, 3))
        sides[side] = {
            "seconds": seconds,
            "judgements": judged,
            "judgements_per_second": judged / seconds,
            "pair_tokens_per_second": real / seconds,  # both texts of every judgement, no padding
            "encoded_tokens_per_second": encoded / seconds,  # through the network, padding included
            "peak_memory": max(run["peak_memory"] for run in runs),
        }
    seen = min(sum(record[1] for record in runs[0]["records"]) for runs in legs.values())
    counts = [round(seen * (point + 1) / POINTS) for point in range(POINTS)]
    for side, runs in legs.items():
        sides[side]["loss"] = curve(runs[0]["records"], counts)
    best = sides.get("best", sides["trl"])
    ours, trl, fastest = (side["judgements_per_second"] for side in (sides["ours"], sides["trl"], best))
    bar = BARS.get((case.data, case.model))
    lean = sides["ours"]["peak_memory"] <= min(sides["trl"]["peak_memory"], best["peak_memory"])
    return {
        "data": case.data,
        "model": case.model,
        **case.about,
        "trl_version": legs["trl"][0]["trl"],
        "trl_torch": legs["trl"][0]["torch"],
        "trl_update": legs["trl"][0]["update"],
        "trl_probes": rates,
        **sides,
        "loss_at": counts,
        "ratio": ours / trl,
        "ratio_to_best": ours / max(trl, fastest),
        "bar": bar,
        "no_more_memory": lean,
        "reached": (bar is None or ours / trl >= bar) and lean,
    }


def curve(records: Sequence[Sequence[float]], counts: Sequence[int]) -> list[float]:
    """Mean pairwise loss between one count of judgements and the next.

    A step's mean loss stands for each of its judgements, so a step across a boundary is split by its judgements.
    """
    points, edge, total, weight, seen = [], 0, 0.0, 0.0, 0.0
    for _, judged, _, _, loss in records:
        left = judged
        while left > 0 and edge < len(counts):
            taken = min(left, counts[edge] - seen)
            total, weight, seen, left = total + taken * loss, weight + taken, seen + taken, left - taken
            if seen >= counts[edge]:
                points.append(total / weight if weight else loss)
                edge, total, weight = edge + 1, 0.0, 0.0
    return points


def describe(case: dict[str, Any]) -> str:
    """A case in words and figures."""
    lines = [
        f"\n{TITLES[case['data']]}, {case['model']}: {case['pairs']} pairs of {case['responses']} responses "
        f"({case['ties_left_out']} ties left out), {case['tokens_per_pair']:.0f} tokens a pair, max_length "
        f"{case['max_length']}: TRL by itself would drop {case['trl_would_drop']} pairs",
        f"  update: ours {case['update']:.1f} judgements a step on average (token_budget {case['token_budget']}), "
        f"TRL {case['trl_update']}",
        f"  TRL {case['trl_version']} (torch {case['trl_torch']}), pairs/s tried: "
        + ", ".join(f"{size} {order} {rate:.1f}" for size, order, rate in case["trl_probes"])
        + "; no checkpointing, fp32, fused AdamW, dynamic padding",
    ]
    sides = [side for side in ("ours", "trl", "best") if side in case]
    for side in sides:
        figures = case[side]
        lines.append(
            f"  {side:5} {figures['judgements_per_second']:8.1f} judgements/s  "
            f"{figures['pair_tokens_per_second']:8.0f} real tokens/s  "
            f"{figures['encoded_tokens_per_second']:7.0f} encoded tokens/s  "
            f"{figures['peak_memory'] / 2**20:6.0f} MiB  {figures['judgements']:.0f} judgements in "
            f"{figures['seconds']:.0f} s"
        )
    for side in sides:
        points = ", ".join(f"{loss:.3f}" for loss in case[side]["loss"])
        lines.append(f"  {side:5} mean loss up to {case['loss_at']} judgements: {points}")
    return "\n".join(lines)


def table(cases: Sequence[dict[str, Any]]) -> str:
    lines = [
        "data                model    ours/s  TRL/s, at best   ratio  to best    bar   memory ours/TRL/at best"
    ]
    for case in cases:
        ours, trl, best = case["ours"], case["trl"], case.get("best", case["trl"])
        bar = f"{case['bar']:5.0f}x" if case["bar"] else "     -"
        lines.append(
            f"{TITLES[case['data']]:19} {case['model']:7} {ours['judgements_per_second']:7.1f}  "
            f"{trl['judgements_per_second']:5.1f}  {best['judgements_per_second']:7.1f}  {case['ratio']:5.1f}x "
            f"{case['ratio_to_best']:7.1f}x {bar}   "
            + "/".join(f"{side['peak_memory'] / 2**20:.0f}" for side in (ours, trl, best))
            + " MiB  "
            f"{'reached' if case['reached'] else 'MISSED' if case['no_more_memory'] else 'MISSED (memory)'}"
        )
    return "\n".join(lines)
