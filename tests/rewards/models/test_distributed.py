"""Several processes on one run end with the weights of one."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
from safetensors.torch import load_file
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

from workers.rewards.config import Refused
from workers.rewards.models.distributed import Group, refuse_flags
from workers.rewards.models.memory import Memory
from workers.rewards.training import prepare
from workers.rewards.training.loop import train
from workers.rewards.training.progress import Stop

MakeRun = Callable[..., Path]


TRAIN = "workers.rewards.train"
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--module"]
# the very command for several GPUs; without one its processes take the CPU
ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
              "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "--module"]  # fmt: skip


def launch(command: list[str]) -> subprocess.Popen[str]:
    """A launcher's two processes."""
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.name}:{name}": tensor
        for path in sorted((run_dir / "model").glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "method", "extra"),
    [
        ("tiny_encoder", "bt", {}),
        ("tiny_lm", "oprm", {"tuning": "lora", "lora_rank": 4, "token_budget": 60}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_two_processes_end_with_the_weights_of_one(
    base: str,
    method: str,
    extra: dict[str, Any],
    request: pytest.FixtureRequest,
    make_run: MakeRun,
    rows: tuple[list[dict[str, Any]], ...],
) -> None:
    verdicts = ["a", "b", "tie", "both_bad"]  # so that the thresholds learn too
    given: dict[str, Any] = {"dropout": 0.0, "epochs": 2, **extra}
    if method == "bt":
        given["judgements"] = [row | {"verdict": verdicts[number % 4]} for number, row in enumerate(rows[1])]
    model = request.getfixturevalue(base)
    one, two = (make_run(model, method, name=name, **given) for name in ("one", "two"))
    train(one)
    process = launch([*ACCELERATE, TRAIN, str(two)])
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    alone, together = weights(one), weights(two)
    assert alone.keys() == together.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(
            together[name], tensor, rtol=0, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
    ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (one, two))
    assert theirs["training"]["processes"] == 2
    # scores, not the accuracy: two epochs leave margins of 1e-8, whose sign is rounding
    scores = [pq.read_table(folder / "predictions.parquet").to_pydict() for folder in (one, two)]
    assert scores[0]["response_id"] == scores[1]["response_id"]
    assert scores[0]["score"] == pytest.approx(scores[1]["score"], abs=1e-4)
    assert ours["held_out"]["pairs"]["accuracy"]["n"] == theirs["held_out"]["pairs"]["accuracy"]["n"] > 0
    for name in ("tie", "bad_threshold"):
        values = [
            json.loads((folder / "model" / "reward_config.json").read_text())[name] for folder in (one, two)
        ]
        assert values[0] == pytest.approx(values[1], abs=1e-5)
    lines = [json.loads(line) for line in (two / "progress.jsonl").read_text().splitlines()]
    assert [line["message"] for line in lines].count("done") == 1


@pytest.fixture
def sliding_lm(tmp_path: Path, tiny_lm: Path) -> Path:
    """A Mistral of two layers that sees no further than eight tokens back, which no packed row offers."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, sliding_window=8, tie_word_embeddings=False,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(tmp_path / "sliding")
    tokenizer.save_pretrained(tmp_path / "sliding")
    return tmp_path / "sliding"


@pytest.mark.slow
def test_weights_divided_among_two_processes_learn_as_in_one(
    request: pytest.FixtureRequest, make_run: MakeRun, rows: tuple[list[dict[str, Any]], ...]
) -> None:
    """One launch trains all of them: the second process needs half a minute to start."""
    verdicts = ["a", "b", "tie", "both_bad"]  # so that the thresholds learn too
    judgements = [row | {"verdict": verdicts[number % 4]} for number, row in enumerate(rows[1])]
    cases: dict[str, tuple[str, str, dict[str, Any]]] = {
        "watched": (
            "tiny_lm",
            "bt",
            {"judgements": judgements, "patience": 3},
        ),
        "small": ("tiny_lm", "haf", {"token_budget": 400, "micro_batch_tokens": 60}),
        "stopped": (
            "tiny_lm",
            "haf",
            {"tuning": "lora", "lora_rank": 4, "haf_head": "ordinal", "epochs": 3},
        ),
        "padded": ("sliding_lm", "bt", {}),
        "half": ("tiny_lm", "bt", {"tuning": "lora", "lora_rank": 4}),
        "encoder": (
            "tiny_encoder",
            "bt",
            {"judgements": judgements, "token_budget": 200, "micro_batch_tokens": 40},
        ),
    }
    folders: dict[str, tuple[Path, Path]] = {}
    for name, (base, method, extra) in cases.items():
        # small steps, so that rounding does not grow
        given = {"dropout": 0.0, "epochs": 2, "learning_rate": 1e-4, **extra}
        model = request.getfixturevalue(base)
        one = make_run(model, method, name=f"one-{name}", **given)
        two = make_run(model, method, name=f"{name}-two", shard=True, **given)
        train(one)
        folders[name] = one, two
    paths = [str(two) for _, two in folders.values()]
    started = [*TORCHRUN, "tests.rewards.models.sharded", *paths]
    process = launch(started)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    for name, (one, two) in folders.items():
        close = 1e-2 if name == "half" else 1e-5  # bf16 has three digits
        alone, together = weights(one), weights(two)
        assert alone.keys() == together.keys()
        for key, tensor in alone.items():
            torch.testing.assert_close(
                together[key].to(tensor.dtype),
                tensor,
                rtol=0,
                atol=close,
                msg=lambda m, n=f"{name} {key}": f"{n}: {m}",
            )
        ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (one, two))
        assert theirs["training"]["processes"] == 2
        assert theirs["training"]["loss"] == pytest.approx(ours["training"]["loss"], abs=close)
        scores = [pq.read_table(folder / "predictions.parquet").to_pydict()["score"] for folder in (one, two)]
        assert scores[0] == pytest.approx(scores[1], abs=close)
        if name == "watched":
            for look, other in zip(*(m["early_stopping"]["history"] for m in (ours, theirs)), strict=True):
                assert look == pytest.approx(other, abs=1e-5)
    idle = [int((two.parent / f"idle-{rank}").read_text()) for rank in (0, 1)]
    assert max(idle) > 0, "no step in which one process had less to do than the other"


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on(make_run: MakeRun, tiny_encoder: Path) -> None:
    # small steps: at this model's default, rounding grows to 1e-2 in that many epochs
    given = {"dropout": 0.0, "epochs": 30, "token_budget": 60, "learning_rate": 1.5e-4}
    straight, stopped = (make_run(tiny_encoder, "oprm", name=name, **given) for name in ("one", "two"))
    train(straight)
    process = launch([*TORCHRUN, TRAIN, str(stopped)])
    deadline = time.monotonic() + 200
    progress = stopped / "progress.jsonl"
    while not progress.exists() or '"training"' not in progress.read_text():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # torchrun passes it on to both
    process.communicate(timeout=200)
    assert not (stopped / "error.json").exists()
    assert not (stopped / "metrics.json").exists()
    assert (stopped / "checkpoint").exists()
    process = launch([*TORCHRUN, TRAIN, str(stopped)])
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    alone, together = weights(straight), weights(stopped)
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCELERATE_USE_FSDP", "true"),
        ("ACCELERATE_USE_DEEPSPEED", "true"),
        ("ACCELERATE_USE_MEGATRON_LM", "true"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true"),
        ("ACCELERATE_MIXED_PRECISION", "fp16"),
        ("ACCELERATE_MIXED_PRECISION", "fp8"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4"),
        ("ACCELERATE_GRADIENT_CLIPPING", "1.0"),
        ("ACCELERATE_CPU_AFFINITY", "1"),
    ],
)
def test_a_flag_that_is_not_honoured_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(Refused, match=f"{name} is '{value}'.*(leave out|give) --"):
        refuse_flags({"ACCELERATE_USE_CPU": "True", name: value})


@pytest.mark.parametrize("extra", [[], ["--cpu"], ["--multi_gpu", "--mixed_precision", "bf16"]])
def test_what_accelerate_sets_by_itself_is_not_refused(extra: list[str]) -> None:
    arguments = launch_command_parser().parse_args(
        ["--num_processes", "2", "--mixed_precision", "no", *extra, "train.py"]
    )
    arguments.num_machines, arguments.dynamo_backend = 1, "no"  # as accelerate's launch_command does
    arguments.num_cpu_threads_per_process, arguments.use_cpu = 1, arguments.cpu
    made = (
        prepare_multi_gpu_env(arguments)
        if arguments.multi_gpu
        else prepare_simple_launcher_cmd_env(arguments)[1]
    )
    assert made["ACCELERATE_MIXED_PRECISION"] in ("no", "bf16")
    refuse_flags(made)


@pytest.mark.slow
def test_accelerate_launch_with_such_a_flag_ends_before_any_work(
    make_run: MakeRun, tiny_encoder: Path
) -> None:
    run_dir = make_run(tiny_encoder, "bt")
    process = launch(
        ["accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1",
         "--mixed_precision", "no", "--dynamo_backend", "inductor", "--module", TRAIN, str(run_dir)]
    )  # fmt: skip
    output, _ = process.communicate(timeout=120)
    assert "refused: ACCELERATE_DYNAMO_BACKEND is 'INDUCTOR'" in output
    assert json.loads((run_dir / "error.json").read_text())["kind"] == "refused"
    assert not (run_dir / "progress.jsonl").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({}, "there is one; start it by `torchrun"),
        ({"tuning": "frozen"}, "tuning is 'frozen'; set shard to false"),
        ({"optimizer": "adamw_8bit"}, "set it to 'adamw'"),
        ({"crossfit": 5}, "set it to 0"),
    ],
)
def test_what_weights_cannot_be_divided_for_is_refused(
    extra: dict[str, Any], message: str, make_run: MakeRun, tiny_encoder: Path
) -> None:
    with pytest.raises(Refused, match=message):
        train(make_run(tiny_encoder, "bt", shard=True, **extra))


def test_an_optimiser_that_is_not_installed_is_refused(
    make_run: MakeRun, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else find(name, *rest)
    )
    with pytest.raises(Refused, match="pip install 'bitsandbytes"):
        train(make_run(tiny_encoder, "bt", optimizer="adamw_8bit"))


def test_the_cpu_scores_where_no_card_holds_the_whole_model(
    make_run: MakeRun, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare.prepare(make_run(tiny_encoder, "bt"), Stop())
    assert run is not None
    trained = {name: value.detach().clone() for name, value in run.model.named_parameters()}
    monkeypatch.setattr(prepare, "free_bytes", lambda device: 1000)
    run.memory = Memory(free=1000, weights=2000, fixed=0, token=1, tokens=1, per_pass=1, checkpointing=True)
    run.team = Group(size=2)
    prepare.join(run)
    assert (run.team.size, run.team.device.type, run.encoder.group.size) == (2, "cpu", 1)
    assert all(torch.equal(trained[name], value) for name, value in run.model.named_parameters())
    assert "the CPU scores" in (run.run_dir / "progress.jsonl").read_text()


def test_work_is_divided_evenly_and_whole() -> None:
    group = Group(rank=1, size=3, device=torch.device("cpu"))
    shares = group.divide([[0, 1], [2], [3], [4, 5, 6]], [50, 30, 20, 60])
    assert sorted(position for share in shares for position in share) == list(range(7))
    assert shares == [[4, 5, 6], [0, 1], [2, 3]]


def test_one_process_needs_no_group() -> None:
    group = Group.started()
    assert (group.rank, group.size, group.first) == (0, 1, True)
    assert group.any(True)
    assert not group.any(False)
    group.sum_gradients([], [])
