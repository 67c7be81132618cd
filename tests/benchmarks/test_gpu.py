"""The GPU's benchmark: it runs here from end to end, keeps what a cut-off leg knew, and holds its bars."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.shapes import FRAME, texts


def test_the_whole_script_runs_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.gpu",
            "--device",
            "cpu",
            "--shape",
            "tiny",
            "tiny-lora",
            "--without-trl",
        ]
        + ["--json", str(out)],
        cwd=gpu.ROOT,
        capture_output=True,
        text=True,
        timeout=gpu.LIMIT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shapes = json.loads(out.read_text())["shapes"]
    figures, adapters = shapes["tiny"]["ours"], shapes["tiny-lora"]["ours"]
    assert figures["steps"] >= 1
    assert figures["kernel"] == "SDPA by runs"
    assert "| tiny, tuned, ours | " in done.stdout
    # 6 FLOPs a weight and token, and attention's
    layer = 4 * 64 * 64 + 3 * 64 * 192
    a_token = figures["flops_per_second"] / figures["tokens_per_second"]
    frozen = adapters["flops_per_second"] / adapters["tokens_per_second"]
    assert 4 * 2 * layer < frozen < a_token - layer
    assert 6 * 2 * layer < a_token < 6 * 2 * layer + 12 * 2 * 64 * 128


def test_a_leg_that_is_cut_off_keeps_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {"judgements_per_second": 2.0, "tokens_per_second": 50.0, "steps": 3}
    script = (
        "import json, sys, time; job = json.load(open(sys.argv[-1]));"
        f"open(job['out'], 'w').write('{json.dumps(figures)}'); time.sleep(60)"
    )
    started = subprocess.run
    monkeypatch.setattr(
        gpu.subprocess,
        "run",
        lambda command, **more: started([sys.executable, "-c", script, command[-1]], **more),
    )
    assert gpu.run("tiny", "ours", "cpu", tmp_path, time.monotonic() + 3) == figures
    assert "ended early: its time was over" in capsys.readouterr().out


def leg(judgements: float, flops: float | None) -> dict[str, Any]:
    return {
        "step": "1 token a step",
        "judgements_per_second": judgements,
        "tokens_per_second": 1.0,
        "flops_per_second": flops,
        "peak_memory": 2**31,
        "memory": {"peak": 2**32},
        "kernel": "torch varlen_attn",
    }


@pytest.mark.parametrize(("ours", "trl", "words"), [(500.0, 240.0, "reached"), (440.0, 300.0, "MISSED")])
def test_the_bars_are_on_the_floating_point_work_and_on_trl(ours: float, trl: float, words: str) -> None:
    told = gpu.table({"0.5b": {"ours": leg(ours, ours * 1e12), "trl": leg(trl, None)}}, 1000e12)
    assert "2.0 GiB (4.0) | torch varlen_attn |" in told
    assert f"0.5b ours: {ours / 10:.1f}% of the FLOPs, bar 45%: {words}" in told
    assert f"0.5b: {ours / trl:.1f} times TRL, bar 2.0: {words}" in told


def test_texts_share_prompts_and_fit() -> None:
    responses, judgements = texts(3000, 512)
    assert len(judgements) == len(responses) // 4 * 6
    lengths = [
        len(row["messages"][0]["content"].split()) + len(row["text"].split()) + FRAME for row in responses
    ]
    assert max(lengths) <= 512
    assert sum(lengths) > 3000
