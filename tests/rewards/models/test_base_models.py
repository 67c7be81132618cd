"""What a run's child loads as a base model, and what it refuses whatever config.json says."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.hub_double import clients_at, running
from workers.rewards.artifacts.card import _base
from workers.rewards.artifacts.save import CONFIG_NAME, HEAD_NAME, read_config
from workers.rewards.config import Refused
from workers.rewards.models.base_models import FOLDERS_VARIABLE, LINK, PACKAGED, Source, find_base, hub_id
from workers.rewards.models.kinds import look_at
from workers.rewards.models.load import load_backbone, load_base, load_tokenizer
from workers.rewards.train import main
from workers.rewards.training.loop import train

MakeRun = Callable[..., Path]


@pytest.fixture
def for_people(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """for_people(FOLDER) makes the next trainings those of a worker that allows this folder alone."""

    def allow(*folders: Path) -> None:
        monkeypatch.setenv(FOLDERS_VARIABLE, json.dumps([str(folder) for folder in folders]))

    return allow


def refusal(name: str, run_dir: Path) -> str:
    with pytest.raises(Refused) as refused:
        find_base(name, run_dir)
    return str(refused.value)


def test_a_worker_allows_its_folders_alone(
    for_people: Callable[..., None], tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_encoder, tmp_path / "org" / "name")
    names = [str(tiny_encoder), os.path.relpath(tiny_encoder), "/nowhere", "../x", f"file://{tiny_encoder}"]
    for allowed in ([], [tiny_encoder]):
        for_people(*allowed)
        assert len({refusal(name, tmp_path) for name in names}) == 1
        assert "'org/name' can't be loaded; give" in refusal("org/name", tmp_path), (
            "a folder of that name is there"
        )
        assert refusal("folder:x", tmp_path) == refusal("folder:x", tmp_path / "elsewhere")
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / LINK).symlink_to(other)
    for name in ("starter", "folder:x", "version:bt-1"):
        assert name in refusal(name, tmp_path), "the link leads elsewhere"
    (tmp_path / LINK).unlink()
    (tmp_path / LINK).symlink_to(tiny_encoder)
    assert find_base("version:bt-1", tmp_path) == Source(str(tiny_encoder.resolve()))


def test_somebody_with_a_shell_may_name_any_folder(tiny_encoder: Path, tmp_path: Path) -> None:
    assert find_base(str(tiny_encoder), tmp_path) == Source(str(tiny_encoder))
    assert find_base("org/name", tmp_path) == Source("org/name")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """hub(FOLDER, "org/name", "v2") puts a model into the hub's cache on this machine, which is offline."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))

    def put(folder: Path, name: str, revision: str = "main") -> str:
        commit = hashlib.sha1(f"{name}{revision}".encode()).hexdigest()
        repository = cache / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
        return commit

    return put


def test_a_revision_is_the_commit_that_was_loaded(
    for_people: Callable[..., None],
    tiny_encoder: Path,
    make_run: MakeRun,
    hub: Callable[..., str],
    tmp_path: Path,
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_encoder, other)
    (other / "config.json").write_text("{}")
    hub(other, "org/name")
    commit = hub(tiny_encoder, "org/name", "v2")
    for_people()
    folder = make_run("org/name@v2", "bt", epochs=1)
    metrics = train(folder)
    config = read_config(folder / "model")
    assert (config["base_model"], config["base_revision"]) == ("org/name@v2", commit)
    assert (metrics["config"]["base_model"], metrics["base_revision"]) == ("org/name@v2", commit)
    assert _base(config) == f"org/name, revision `{commit}`"
    with pytest.raises(Refused, match="'org/none' can't be loaded"):
        look_at("org/none", Source("org/none"))


def test_a_base_model_is_fetched_at_one_commit(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the real client, of a hub that goes on meanwhile; pickles and code beside the weights are left there."""
    with running() as hub:
        clients_at(hub, tmp_path / "cache", monkeypatch)
        files = {path.name: path.read_bytes() for path in tiny_encoder.iterdir()}
        repo = hub.dataset("org/tiny", {**files, "pytorch_model.bin": b"", "modeling.py": b""}, kind="model")
        base = look_at("org/tiny", Source("org/tiny"))
        assert base.source.revision == repo.head
        repo.commit({"config.json": b"{}"}, "another model")
        fetched = load_base(base).state_dict()
        load_tokenizer("org/tiny", base.source.path, base.source.revision)
        kept = load_file(tiny_encoder / "model.safetensors")
        assert all(torch.equal(fetched[name], weights) for name, weights in kept.items())
        with pytest.raises(Refused, match="can't be loaded"):
            look_at("org/none", Source("org/none"))
        assert hub.problems == []
        assert not [line for line in hub.seen if line.startswith("GET") and line.endswith((".bin", ".py"))]


def test_adapters_of_the_hub_lie_over_a_model_of_the_hub(
    for_people: Callable[..., None], tiny_lm: Path, make_run: MakeRun, hub: Callable[..., str], tmp_path: Path
) -> None:
    """Both at their commits, and what is trained names the adapters'."""
    wrapper: Any = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_lm), peft.LoraConfig(r=2, target_modules="all-linear")
    )
    wrapper.peft_config["default"].base_model_name_or_path = "org/lm"
    wrapper.peft_config["default"].revision = "v1"
    wrapper.save_pretrained(tmp_path / "adapters")
    below, above = hub(tiny_lm, "org/lm", "v1"), hub(tmp_path / "adapters", "org/adapters")
    for_people()
    base = look_at("org/adapters", find_base("org/adapters", tmp_path))
    assert (base.source, base.adapters) == (Source("org/lm", below), Source("org/adapters", above))
    run = make_run("org/adapters", "bt", epochs=1)
    assert train(run)["base_revision"] == above
    (tmp_path / "adapters" / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "org/absent"})
    )
    hub(tmp_path / "adapters", "org/stray")
    with pytest.raises(
        Refused, match="'org/stray' is adapters over 'org/absent': base model 'org/absent' can't be"
    ):
        look_at("org/stray", Source("org/stray"))


def test_pickles_of_the_hub_are_refused_with_what_to_do(
    tiny_encoder: Path, hub: Callable[..., str], tmp_path: Path
) -> None:
    """Before any of them is fetched."""
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_encoder, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    hub(folder, "org/old")
    with pytest.raises(
        Refused, match=r"'org/old' has pickled .* name a revision with model\.safetensors .* python -c"
    ):
        look_at("org/old", Source("org/old"))


def test_no_artifact_tells_the_base_models_path(tiny_encoder: Path, make_run: MakeRun) -> None:
    folder = make_run(tiny_encoder, "bt", epochs=1)
    train(folder)
    texts = [*(folder / "model").glob("*.json"), folder / "metrics.json"]
    assert len(texts) >= 4
    for path in texts:
        assert str(tiny_encoder) not in path.read_text(), path.name
    assert read_config(folder / "model")["base_model"] == "a local folder"


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
def test_a_config_cannot_choose_a_kernel_of_the_hub(
    key: str, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import modeling_utils

    def fetch(*names: Any, **options: Any) -> None:
        raise AssertionError(f"it reached for {names}")

    monkeypatch.setattr(modeling_utils, "lazy_import_flash_attention", fetch)
    folder = tmp_path / "model"
    shutil.copytree(tiny_encoder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: "org/kernel"}))
    loaded: Any = load_backbone("model", str(folder), "encoder")
    assert loaded.config._attn_implementation != "org/kernel"
    plain: Any = load_backbone("model", str(tiny_encoder), "encoder")
    assert loaded.config._attn_implementation == plain.config._attn_implementation


def test_a_tokenizer_that_knows_no_text_is_refused(
    tiny_encoder: Path, tmp_path: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder without one trained to "done" with the five tokens that transformers made up."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(tiny_encoder / name, folder / name)
    run = make_run(folder, "bt")
    assert main([str(run)]) == 2
    assert "has a tokenizer of 5 entries" in json.loads((run / "error.json").read_text())["message"]


def test_an_unloadable_folder_gives_one_message(
    for_people: Callable[..., None], tmp_path: Path, make_run: MakeRun
) -> None:
    """Whatever is wrong with its config.json; a hub id may say why."""
    messages = set()
    for number, content in enumerate((None, "{}", "not JSON")):
        folder = tmp_path / f"model-{number}"
        folder.mkdir()
        if content is not None:
            (folder / "config.json").write_text(content)
        run = make_run("folder:x", "bt", name=f"run-{number}")
        (run / LINK).symlink_to(folder)
        for_people(folder)
        assert main([str(run)]) == 2
        messages.add(json.loads((run / "error.json").read_text())["message"])
    assert messages == {
        "base model 'folder:x' can't be loaded; give a model with config.json, tokenizer.json and safetensors weights, "
        "or a hub id that this machine can reach"
    }


@pytest.mark.parametrize(
    ("method", "head"), [("oprm", True), ("rgft", True), ("bt", False)]
)  # a number's head is another than nine ratings'
def test_a_version_goes_on_from_its_backbone_and_head(
    method: str, head: bool, for_people: Callable[..., None], tiny_encoder: Path, make_run: MakeRun
) -> None:
    """With learning rates of almost nothing what comes out is what went in."""
    first = make_run(tiny_encoder, "oprm", name="first", epochs=1, learning_rate=0.01, seed=3)
    train(first)
    for_people(first / "model")
    still = {"learning_rate": 0.0, "head_learning_rate": 0.0, "weight_decay": 0.0}
    second = make_run("version:oprm-1", method, name="second", epochs=1, seed=4, **still)
    (second / LINK).symlink_to(first / "model")
    train(second)
    start, base, end = (
        load_file(folder / "model.safetensors")
        for folder in (first / "model", tiny_encoder, second / "model")
    )
    moved = [name for name in start if not torch.equal(start[name], base[name])]
    assert moved, "the first run trained"
    assert all(torch.equal(start[name], end[name]) for name in start)
    heads = [load_file(run / "model" / HEAD_NAME) for run in (first, second)]
    same = heads[0].keys() == heads[1].keys() and all(
        heads[0][name].shape == heads[1][name].shape and torch.equal(heads[0][name], heads[1][name])
        for name in heads[0]
    )
    assert same == head
    assert json.loads((second / "model" / CONFIG_NAME).read_text())["base_model"] == "version:oprm-1"


def test_the_hubs_name_of_a_base_model() -> None:
    assert [hub_id(name) for name in (PACKAGED, "org/name@v2", "/a/b", None)] == [
        "sentence-transformers/all-MiniLM-L6-v2",
        "org/name",
        None,
        None,
    ]
