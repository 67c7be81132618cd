"""LoRA versions: adapters over a base model that stays where it is. Sizes, scores, the base's whereabouts, going on."""

import importlib.util
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tests.rewards.models.test_base_models import hub  # noqa: F401 - a fixture
from workers.rewards.artifacts import adapters as artifact_adapters
from workers.rewards.artifacts.export import export_model, pack_model
from workers.rewards.artifacts.save import ArtifactError, load_model
from workers.rewards.config import Refused, RunConfig
from workers.rewards.data.snapshot import read_snapshot
from workers.rewards.models.base_models import FOLDERS_VARIABLE, Source
from workers.rewards.models.kinds import look_at
from workers.rewards.models.load import load_backbone, load_base, load_quantised
from workers.rewards.models.predict import score_responses
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.training import step
from workers.rewards.training.loop import train

MakeRun = Callable[..., Path]
CPU = torch.device("cpu")
LORA = {"tuning": "lora", "lora_rank": 4, "epochs": 1, "learning_rate": 1e-2}


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors") if path.is_file())


def scores(model_dir: Path, run: Path) -> list[float]:
    model, template, _ = load_model(model_dir)
    return [
        row["score"] for row in score_responses(model, template, read_snapshot(run / "snapshot").responses)
    ]


def predicted(run: Path) -> list[float]:
    import pyarrow.parquet as pq

    found: list[float] = pq.read_table(run / "predictions.parquet")["score"].to_pylist()
    return found


@pytest.fixture
def base(tiny_lm: Path, tmp_path: Path) -> Path:
    """A copy of the base model, which a test may spoil."""
    return Path(shutil.copytree(tiny_lm, tmp_path / "llm"))


@pytest.fixture
def trained(base: Path, make_run: MakeRun) -> Path:
    run = make_run(base, "bt", **LORA)
    train(run)
    return run


def continued(make_run: MakeRun, start: Path, name: str, **given: Any) -> Path:
    """A run that goes on from another's version, as a worker sets it up."""
    run = make_run(
        "version:bt-1", "bt", name=name, **{"epochs": 1, "learning_rate": 1e-2, "seed": 1, **given}
    )
    (run / "base").symlink_to(start / "model")
    return run


def test_a_version_is_its_adapters_and_scores_as_it_was_measured(trained: Path, base: Path) -> None:
    model = trained / "model"
    assert size(model) < size(base)  # 32 wide: the next test has one that is wide enough to tell
    assert {path.name for path in model.glob("*.safetensors")} == {
        "adapter_model.safetensors",
        "reward_head.safetensors",
    }
    config = json.loads((model / "reward_config.json").read_text())
    assert (config["base"]["name"], config["base"]["revision"], config["base"]["dtype"]) == (
        "a local folder",
        None,
        "float32",
    )
    assert (trained / "base").resolve() == base
    assert scores(model, trained) == predicted(trained), "the served model is the one that was measured"
    for path in model.glob("*.json"):
        assert str(base.parent) not in path.read_text(), path.name
    again = load_model(model)[0]
    assert again.lora is not None
    assert all(parameter.dtype == torch.float32 for parameter in again.parameters())


def test_a_base_that_was_rounded_on_a_gpu_is_rounded_everywhere(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adapters that learnt beside a bf16 base are served beside the same values, in fp32 on a CPU."""
    path = trained / "model" / "reward_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "base": {**config["base"], "dtype": "bfloat16"}}))
    for merged in (False, True):
        weight: Any = load_model(trained / "model", merged=merged)[0].backbone.get_input_embeddings().weight
        assert weight.dtype == torch.float32
        assert torch.equal(weight, weight.bfloat16().float())
    monkeypatch.setattr(artifact_adapters, "default_device", lambda: torch.device("cuda"))
    weight = load_model(trained / "model")[0].backbone.get_input_embeddings().weight
    assert weight.dtype == torch.bfloat16


def test_of_a_wider_model_a_tenth_is_kept(tmp_path: Path, tiny_lm: Path, make_run: MakeRun) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path / "wide"
    shutil.copytree(tiny_lm, folder)
    config = Qwen2Config.from_pretrained(tiny_lm, hidden_size=256, intermediate_size=1024)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    run = make_run(folder, "bt", **{**LORA, "token_budget": 2000})
    train(run)
    whole = sum(path.stat().st_size for path in (run / "model").iterdir())
    assert whole < size(folder) / 10


@pytest.mark.parametrize("method", ["bt", "oprm"])
def test_an_export_is_merged_in_fp32(method: str, base: Path, make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(base, method, **LORA)
    train(run)
    report = export_model(run / "model", tmp_path / "out")  # compares scores before the folder appears
    assert report["max_difference"] < 1e-5
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert not [name for name in weights if "lora" in name or "base_layer" in name]


def test_a_merge_into_bf16_would_lose_what_fp32_keeps(tiny_lm: Path) -> None:
    """A base in bf16, as on a GPU, and an update of 1 % of its size."""
    torch.manual_seed(0)
    backbone = load_backbone("tiny", str(tiny_lm), "causal", torch.bfloat16)
    model = RewardModel(backbone, architecture="causal", kind="scalar")
    model.add_lora(RunConfig(lora_rank=4))
    before, update = {}, {}
    for name, layer in model.backbone.named_modules():
        if hasattr(layer, "lora_B"):
            before[name] = layer.base_layer.weight.detach().clone()
            new = torch.nn.init.normal_(layer.lora_B["default"].weight)
            with torch.no_grad():
                new *= 0.01 * before[name].float().norm() / layer.get_delta_weight("default").norm()
                update[name] = layer.get_delta_weight("default").float()
    model.merge_lora()
    for name, start in before.items():
        exact = model.backbone.get_submodule(name).weight.detach()
        assert exact.dtype == torch.float32
        torch.testing.assert_close(exact - start.float(), update[name], rtol=0, atol=1e-6)
        coarse = (start + update[name].bfloat16()).float() - start.float()
        assert (coarse - update[name]).norm() > 0.1 * update[name].norm()


def test_a_pack_needs_nothing_but_itself(trained: Path, base: Path, tmp_path: Path) -> None:
    expected = scores(trained / "model", trained)
    pack_model(trained / "model", tmp_path / "pack")
    assert sorted(path.name for path in (tmp_path / "pack" / "base").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    packed = Path(shutil.move(tmp_path / "pack", tmp_path / "elsewhere"))
    shutil.rmtree(base)
    assert scores(packed, trained) == expected


def test_a_base_that_is_gone_or_changed_is_refused_by_name(trained: Path, base: Path) -> None:
    model = trained / "model"
    (base / "config.json").write_text(json.dumps(json.loads((base / "config.json").read_text()), indent=7))
    load_model(model)  # another spelling of the same
    weights = load_file(base / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, base / "model.safetensors")
    with pytest.raises(
        ArtifactError, match="over the base model 'a local folder', and what is there now is not"
    ):
        load_model(model)
    shutil.rmtree(base)
    with pytest.raises(ArtifactError, match=r"which is not there: put it .* at .*/model/base or .*/run/base"):
        load_model(model)


def test_a_worker_loads_no_base_that_it_does_not_allow(
    trained: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDERS_VARIABLE, "[]")
    with pytest.raises(ArtifactError, match="which is not there"):
        load_model(trained / "model")
    monkeypatch.setenv(FOLDERS_VARIABLE, json.dumps([str(base)]))
    load_model(trained / "model")


def test_a_base_of_the_hub_is_loaded_at_its_commit(
    tiny_lm: Path,
    make_run: MakeRun,
    hub: Callable[..., str],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    commit = hub(tiny_lm, "org/llm", "v2")
    monkeypatch.setenv(FOLDERS_VARIABLE, "[]")
    run = make_run("org/llm@v2", "bt", **LORA)
    train(run)
    config = json.loads((run / "model" / "reward_config.json").read_text())
    assert (config["base"]["name"], config["base"]["revision"]) == ("org/llm@v2", commit)
    settings = json.loads((run / "model" / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("org/llm", commit)
    assert not (run / "base").exists()
    assert scores(run / "model", run) == predicted(run)
    pack_model(run / "model", tmp_path / "pack")
    assert not (tmp_path / "pack" / "base").exists()
    card = (tmp_path / "pack" / "README.md").read_text()
    assert f"adapters and head; org/llm below them is loaded at `{commit}`" in card
    # PEFT alone has the same backbone
    theirs: Any = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_lm), tmp_path / "pack"
    )
    ids = torch.arange(5, 25).unsqueeze(0)
    ours: Any = load_model(run / "model")[0].backbone
    torch.testing.assert_close(ours(input_ids=ids).logits, theirs(input_ids=ids).logits)


# --- Going on ---


def test_the_same_adapters_go_on_over_the_same_base(trained: Path, base: Path, make_run: MakeRun) -> None:
    second = continued(make_run, trained, "second", tuning="lora")
    metrics = train(second)
    assert (metrics["config"]["lora_rank"], metrics["config"]["lora_alpha"]) == (4, 32)
    records = [
        json.loads((run / "model" / "reward_config.json").read_text())["base"] for run in (trained, second)
    ]
    assert records[0] == records[1], "no chain of bases"
    assert (second / "base").resolve() == base
    assert scores(second / "model", second) == predicted(second)
    # nothing learnt: the start itself, here as a copy in place of a link
    still = continued(make_run, trained, "still", tuning="lora", learning_rate=0.0)
    (still / "base").unlink()
    shutil.copytree(trained / "model", still / "base")
    (still / "base" / "base").symlink_to(base)
    train(still)
    assert (still / "model" / "base").resolve() == base
    assert scores(still / "model", still) == predicted(still)
    weights = [load_file(run / "model" / "adapter_model.safetensors") for run in (trained, still)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_tuned_run_goes_on_from_the_merged_weights(trained: Path, base: Path, make_run: MakeRun) -> None:
    second = continued(make_run, trained, "second", tuning="tuned", learning_rate=0.0)
    train(second)
    start = load_file(base / "model.safetensors")
    shutil.rmtree(base)  # the new version is whole
    found = load_model(second / "model")[0].backbone.state_dict()
    adapters = load_file(trained / "model" / "adapter_model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    a, b = (adapters[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    torch.testing.assert_close(
        found[f"{name}.weight"], start[f"{name}.weight"] + 32 / 4 * b @ a, rtol=0, atol=1e-6
    )
    assert b.abs().max() > 1e-4


def test_adapters_of_peft_go_on_over_the_model_below_them(
    base: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    wrapper: Any = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        peft.LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    )
    wrapper.save_pretrained(tmp_path / "theirs")
    run = make_run(tmp_path / "theirs", "oprm", tuning="lora", epochs=1, learning_rate=0.0)
    metrics = train(run)
    assert (metrics["config"]["lora_rank"], metrics["config"]["lora_alpha"]) == (2, 6)
    assert (run / "base").resolve() == base
    assert scores(run / "model", run) == predicted(run)
    found, start = (
        load_file(folder / "adapter_model.safetensors") for folder in (run / "model", tmp_path / "theirs")
    )
    assert found.keys() == start.keys()
    assert all(torch.equal(found[name], start[name]) for name in found)


@pytest.mark.parametrize(("key", "asked", "has"), [("lora_rank", 8, 4), ("lora_alpha", 16, 32)])
def test_another_rank_is_refused_by_name(
    key: str, asked: int, has: int, trained: Path, make_run: MakeRun
) -> None:
    second = continued(make_run, trained, "second", tuning="lora", **{key: asked})
    with pytest.raises(Refused, match=f"{key} is {asked}, but the adapters of version:bt-1, .* have {has}"):
        train(second)


def test_hafs_reference_is_the_start_with_its_adapters(
    trained: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a rate of zero the policy never leaves its start, so DPO's term stays at log 2."""
    haf = {"alpha": 1.0, "learning_rate": 0.0, "head_learning_rate": 0.0}
    seen: list[float] = []
    terms = step.StepLoss._policy_terms

    def noted(self: Any, log_pi: torch.Tensor, rows: Any) -> torch.Tensor:
        found = terms(self, log_pi, rows)
        seen.extend(found.detach().tolist())
        return found

    monkeypatch.setattr(step.StepLoss, "_policy_terms", noted)
    run = continued(make_run, trained, "second", tuning="lora", **haf)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "method": "haf"}))
    train(run)
    assert seen
    assert seen == pytest.approx([math.log(2)] * len(seen), abs=1e-5)


# --- 4-bit bases ---

QLORA = {**LORA, "tuning": "qlora"}


@pytest.fixture
def without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "bitsandbytes" else find(name, *more)
    )


@pytest.mark.parametrize("method", ["bt", "oprm"])
def test_adapters_over_a_4_bit_base(method: str, base: Path, make_run: MakeRun, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    run = make_run(base, method, **QLORA)
    train(run)
    assert json.loads((run / "model" / "reward_config.json").read_text())["base"]["dtype"] == "nf4"
    model, _, _ = load_model(run / "model")
    layers = [type(layer).__name__ for layer in model.backbone.modules() if hasattr(layer, "quant_state")]
    assert layers == ["Linear4bit"] * 7
    assert scores(run / "model", run) == predicted(run)
    assert export_model(run / "model", tmp_path / "out")["max_difference"] < 1e-5
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert "quantization_config" not in (tmp_path / "out" / "config.json").read_text()


def test_4_bit_layers_of_gpt2_are_its_own_again_when_merged(tmp_path: Path) -> None:
    """They keep their weights transposed."""
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=64, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    base = look_at("gpt2", Source(str(tmp_path)))
    model = RewardModel(load_quantised(base, CPU), architecture="causal", kind="scalar").eval()
    model.add_lora(RunConfig(lora_rank=2))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids, lengths = torch.arange(20).unsqueeze(0), torch.tensor([20])
    with torch.no_grad():
        before = model.hidden(ids, lengths)
        model.merge_lora()
        torch.testing.assert_close(model.hidden(ids, lengths), before, rtol=1e-4, atol=1e-4)
    shapes = {name: value.shape for name, value in model.backbone.state_dict().items()}
    assert shapes == {name: value.shape for name, value in load_base(base).state_dict().items()}


def test_a_host_without_bitsandbytes_uses_the_bases_own_weights_and_says_so(
    base: Path, make_run: MakeRun, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("bitsandbytes")
    run = make_run(base, "bt", **QLORA)
    train(run)
    request.getfixturevalue("without_bitsandbytes")
    with pytest.warns(UserWarning, match="in 4 bits, and bitsandbytes is not installed here"):
        found = scores(run / "model", run)
    assert found != predicted(run)
    differences = [abs(a - b) for a, b in zip(found, predicted(run), strict=True)]
    assert sum(differences) / len(differences) < 0.1


def test_adapters_go_on_from_whole_to_4_bit_weights_and_back(trained: Path, make_run: MakeRun) -> None:
    pytest.importorskip("bitsandbytes")
    second = continued(make_run, trained, "second", tuning="qlora")
    train(second)
    third = continued(make_run, second, "third", tuning="lora")
    train(third)
    dtypes = [
        json.loads((run / "model" / "reward_config.json").read_text())["base"]["dtype"]
        for run in (trained, second, third)
    ]
    assert dtypes == ["float32", "nf4", "float32"]
    assert scores(third / "model", third) == predicted(third)


def test_4_bits_are_refused_where_they_cannot_be(
    tiny_lm: Path, tiny_encoder: Path, make_run: MakeRun, without_bitsandbytes: None
) -> None:
    with pytest.raises(
        Refused, match=r"bitsandbytes, which is not installed: pip install 'caliper\[quantised\]'"
    ):
        train(make_run(tiny_lm, "bt", **QLORA))
    with pytest.raises(Refused, match=r"tuning is 'qlora', but .* is a text encoder; use frozen or tuned"):
        train(make_run(tiny_encoder, "bt", name="encoder", **QLORA))


def test_what_a_gpu_is_told_of_4_bits(tiny_lm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in bf16, everything on the one device: with a stand-in for transformers' loader."""
    import transformers

    told: dict[str, Any] = {}

    def from_pretrained(path: str, **options: Any) -> Any:
        told.update(options)
        raise ValueError("enough")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(Refused, match="enough"):
        load_quantised(look_at("llm", Source(str(tiny_lm))), torch.device("cuda", 1))
    config = told["quantization_config"]
    assert (config.load_in_4bit, config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == (
        True,
        "nf4",
        True,
    )
    assert config.bnb_4bit_compute_dtype == told["dtype"] == torch.bfloat16
    assert told["device_map"] == {"": torch.device("cuda", 1)}
