"""An exported model, loaded by plain transformers in a process that knows nothing of Caliper, scores the same."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from webapp.corpus.options import preset_words
from workers.rewards.artifacts.card import model_card
from workers.rewards.artifacts.export import ExportError, export_model
from workers.rewards.artifacts.exported_tokenizer import PAD
from workers.rewards.artifacts.proof import probes
from workers.rewards.artifacts.save import load_model, save_model
from workers.rewards.config import RunConfig
from workers.rewards.export import main
from workers.rewards.files import sha256_of
from workers.rewards.models.base_models import PACKAGED, resolve_base_model
from workers.rewards.models.calibration import Calibration
from workers.rewards.models.load import load_backbone, load_tokenizer
from workers.rewards.models.predict import score_responses
from workers.rewards.models.preference import scalar_probabilities
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.text.sections import Template, collate
from workers.rewards.training.loop import train

MakeRun = Callable[..., Path]

# Runs the card's code sample as it stands, and once more on texts of the test.
FRESH = r"""
import json, re, sys
request = json.load(open(sys.argv[1]))
answer = {}
for folder in request["folders"]:
    card = open(folder + "/README.md", encoding="utf-8").read()
    code = re.search(r"```python\n(.*?)```", card, re.S).group(1)
    code = code.replace('folder = "."', f"folder = {folder!r}", 1)
    exec(code, {})
    names = {"CHATS": [(row["messages"], row["text"]) for row in request["rows"]]}
    exec(re.sub(r"chats = \[.*?\n\]\n", "chats = CHATS\n", code, flags=re.S), names)
    one_by_one = []
    for row in names["CHATS"]:
        alone = {"CHATS": [row]}
        exec(re.sub(r"chats = \[.*?\n\]\n", "chats = CHATS\n", code, flags=re.S), alone)
        one_by_one += alone["rewards"].tolist()
        if len(one_by_one) == 2:
            break
    answer[folder] = {"rewards": names["rewards"].tolist(), "alone": one_by_one, "model": type(names["model"]).__name__,
                      "ids": [names["encode"](*row)["input_ids"] for row in names["CHATS"]]}
assert not any(name.split(".")[0] == "workers" for name in sys.modules)
json.dump(answer, open(sys.argv[2], "w"))
"""


def in_a_fresh_process(folders: list[Path], rows: list[dict[str, Any]], place: Path) -> dict[str, Any]:
    (place / "request.json").write_text(json.dumps({"folders": [str(f) for f in folders], "rows": rows}))
    environment = {**os.environ, "HF_HOME": str(place / "hf"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-P", "-c", FRESH, str(place / "request.json"), str(place / "answer.json")],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads((place / "answer.json").read_text())
    return answer


def raw_scores(folder: Path, rows: list[dict[str, Any]]) -> tuple[list[float], list[list[int]]]:
    """r, or E[s] of the model's own distribution, by this program; and the ids."""
    model, template, _ = load_model(folder)
    encoded = template.encode(rows)
    assert not any(row.truncated for row in encoded)
    with torch.no_grad():
        scores = torch.cat([model(*collate([row], torch.device("cpu"))) for row in encoded]).double()
    if scores.ndim == 2:
        scores = torch.softmax(scores, 1) @ torch.arange(1.0, 10.0, dtype=torch.float64)
    return scores.tolist(), [list(row.ids) for row in encoded]


RUNS = {
    "bt": ("tiny_lm", {"method": "bt"}),
    "clf-lora": ("tiny_lm", {"method": "clf", "tuning": "lora"}),
    "haf": ("tiny_lm", {"method": "haf"}),
    "haf-ordinal": ("tiny_lm", {"method": "haf", "haf_head": "ordinal"}),
    "oprm-lora": ("tiny_lm", {"method": "oprm", "tuning": "lora"}),
    "encoder-bt": ("tiny_encoder", {"method": "bt"}),
    "encoder-frozen": ("tiny_encoder", {"method": "bt", "tuning": "frozen", "pool_prompt": True}),
    "encoder-whole": ("tiny_encoder", {"method": "bt", "pool_prompt": True}),
    "encoder-rgft": ("tiny_encoder", {"method": "rgft"}),
}


@pytest.mark.slow
def test_every_kind_scores_the_same_in_plain_transformers(
    make_run: MakeRun, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bases = {name: request.getfixturevalue(base) for name, (base, _) in RUNS.items()}
    rows = probes(load_tokenizer("tiny", str(bases["bt"])))
    folders: dict[str, Path] = {}
    for name, (_, given) in RUNS.items():
        run = make_run(
            bases[name],
            name=name,
            epochs=2,
            learning_rate=3e-3,
            head_learning_rate=3e-2,
            max_length=256,
            **given,
        )
        metrics = train(run)
        folders[name] = run / "model"
        report = export_model(run / "model", run / "export", metrics)
        assert report["max_difference"] < 1e-5
        assert report["probes"] >= 20
        kept = {path.name for path in (run / "export").iterdir()}
        assert kept == set(report["files"])
        assert not any(file.endswith((".bin", ".pt", ".pkl")) for file in kept)
    folders["minilm"] = packaged(tmp_path / "minilm")
    export_model(folders["minilm"], tmp_path / "minilm" / "export")

    exports = {name: folder.parent / "export" for name, folder in folders.items()}
    answer = in_a_fresh_process(list(exports.values()), rows, tmp_path)
    kinds = {
        "encoder": "CaliperRewardModel",
        "scalar": "Qwen2ForSequenceClassification",
        "ordinal": "Qwen2ForCausalLM",
    }
    for name, folder in folders.items():
        expected, ids = raw_scores(folder, rows)
        got = answer[str(exports[name])]
        config = json.loads((folder / "reward_config.json").read_text())
        assert got["model"] == kinds["encoder" if config["backbone"] == "encoder" else config["kind"]], name
        assert got["ids"] == ids, name
        assert got["rewards"] == pytest.approx(expected, abs=1e-5), name
        assert got["alone"] == pytest.approx(expected[:2], abs=1e-5), name
        assert max(expected) - min(expected) > 1e-3, f"{name}: texts that all score the same prove nothing"
        if config["kind"] == "scalar":
            model, template, _ = load_model(folder)
            named = [row | {"response_id": str(number)} for number, row in enumerate(rows)]
            by_command = [row["score"] for row in score_responses(model, template, named)]
            assert got["rewards"] == pytest.approx(by_command, abs=1e-5), name


def packaged(folder: Path) -> Path:
    """MiniLM with a head of random weights; trained ones are no harder to export."""
    path = resolve_base_model(PACKAGED)
    tokenizer = load_tokenizer(PACKAGED, path)
    template = Template(tokenizer, architecture="encoder", ordinal=False, max_length=256)
    torch.manual_seed(0)
    model = RewardModel(
        load_backbone(PACKAGED, path, "encoder"), architecture="encoder", kind="scalar", head_hidden=16
    )
    save_model(folder / "model", model, template, method="bt", partition=(3, 6), base_model=PACKAGED)
    return folder / "model"


@pytest.fixture
def trained(make_run: MakeRun, tiny_lm: Path) -> Path:
    run = make_run(tiny_lm, "bt", epochs=1, snapshot_digest="a" * 64)
    train(run)
    return run


def test_pad_is_what_no_head_reads(trained: Path, tmp_path: Path) -> None:
    """The end token where the head reads before it, else a token of its own: the starter's pad is its end token, where
    transformers would read the score before the end."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    source = AutoTokenizer.from_pretrained(trained / "model")
    assert source.pad_token_id == source.eos_token_id
    export_model(trained / "model", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.pad_token_id == tokenizer.pad_token_id == tokenizer.eos_token_id
    end = tokenizer.eos_token
    ids = tokenizer(f"x {end}", f"{end}{end}", split_special_tokens=True)["input_ids"]
    assert tokenizer.pad_token_id not in ids
    assert model.config.caliper["method"] == "bt"
    saved = json.loads((trained / "model" / "reward_config.json").read_text())
    assert model.config.caliper["level_cuts"] == saved["level_cuts"]
    batch = tokenizer(["hi", "hi"], ["water it", "no " * 30], padding=True, return_tensors="pt")
    tokenizer.padding_side = "left"
    left = tokenizer(["hi", "hi"], ["water it", "no " * 30], padding=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, model(**left).logits, rtol=1e-4, atol=1e-5)

    loaded, template, config = load_model(trained / "model")
    older = Template(
        template.tokenizer, architecture="causal", ordinal=False, max_length=template.max_length, reads="turn"
    )
    save_model(
        tmp_path / "older", loaded, older, method="bt", partition=(3, 6), base_model=config["base_model"]
    )
    export_model(tmp_path / "older", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer(f"x {PAD} {end}", f"{PAD}{PAD}", split_special_tokens=True)["input_ids"]
    assert tokenizer.pad_token == PAD
    assert tokenizer.pad_token_id not in ids
    assert ids.count(tokenizer.eos_token_id) == 1
    assert ids[-1] == tokenizer.eos_token_id
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert classifier.config.pad_token_id == tokenizer.pad_token_id


def test_the_card_says_what_is_known_and_claims_nothing_else(trained: Path, tmp_path: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    metrics["held_out"]["calibration"] = {
        "before": {key: {"value": 0.2} for key in ("ece", "ece_equal_mass", "nll", "brier")},
        "after": {key: {"value": 0.1} for key in ("ece", "ece_equal_mass", "nll", "brier")},
    }
    metrics["robustness"] = {
        "unit": "sd",
        "passed": False,
        "failures": ["empty answers are not bad"],
        "attacks": {
            "score_line": {"n": 9, "mean_shift": 0.12, "max_shift": 0.3, "flip_rate": 0.01, "orders": 40}
        },
        "length": {"correlation": 0.31, "matched_accuracy": None},
    }
    export_model(trained / "model", tmp_path / "out", metrics)
    card = (tmp_path / "out" / "README.md").read_text()
    front = card.split("---")[1]
    assert "library_name: transformers" in front
    assert "pipeline_tag: text-classification" in front
    assert "base_model" not in front  # a folder of one's own is not on the hub
    pairs = metrics["held_out"]["pairs"]
    for part in (
        "a" * 64,
        metrics["model_digest"],
        f"{metrics['training']['judgements']} judgements",
        f"{pairs['accuracy']['value']:.3f} [{pairs['accuracy']['low']:.3f}",
        "Accuracy of “the longer one wins”",
        "Human ceiling (leave one out)",
        "| Calibration error (ECE) | 0.200 | 0.100 |",
        "**Failed its suite of injected text",
        "empty answers are not bad",
        "| score_line | 0.120 | 0.010 | 9 |",
        "Whole groups were held out",
        "- Levels: bad ends at a reward of ",
    ):
        assert part in card, part
    assert str(trained) not in card
    export_model(trained / "model", tmp_path / "bare")
    bare = (tmp_path / "bare" / "README.md").read_text()
    assert "Nothing is known of its quality" in bare
    assert "None was fitted" in bare


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "Preset: product (region intersect, level terms all)"),
        (
            {"region": "flood", "level_terms": "none", "smoothness": 0.0},
            "Preset: paper (region flood, level terms none)",
        ),
        ({"region": "flood"}, "Preset: own settings (region flood, level terms all)"),
    ],
)
def test_the_card_names_the_preset(given: dict[str, str], words: str) -> None:
    run = RunConfig.from_dict({"method": "rgft", **given}).resolved("encoder", 384)
    config = {"method": "rgft", "kind": "ordinal", "partition": [3, 6], "backbone": "encoder"}
    metrics = {"preset": run.preset, "config": run.to_json()}
    assert words in model_card(config, metrics, None)
    assert preset_words("rgft", run.to_json()).partition(":")[0] == (run.preset or "own settings")


def run_code(card: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", card, re.S):
        exec(block, names)
    return names


@pytest.mark.parametrize("kind", ["scalar", "ordinal"])
def test_the_cards_calibration_is_the_one_that_is_served(
    kind: str, tiny_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer("tiny", str(tiny_lm))
    template = Template(tokenizer, architecture="causal", ordinal=kind == "ordinal", max_length=256)
    torch.manual_seed(0)
    model = RewardModel(
        load_backbone("tiny", str(tiny_lm), "causal"),
        architecture="causal",
        kind=kind,
        digit_ids=template.digit_ids,
    )
    model.calibration = (
        Calibration("temperature", {"temperature": 1.7, "tie": 0.3})
        if kind == "scalar"
        else Calibration("beta_cdf", {"a": 1.3, "b": 0.8, "c": 0.4})
    )
    method = "bt" if kind == "scalar" else "oprm"
    save_model(tmp_path / "model", model, template, method=method, partition=(3, 6), base_model="tiny")
    export_model(tmp_path / "model", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "The logits above are uncalibrated" in card
    monkeypatch.chdir(tmp_path / "out")
    names = run_code(card)
    rows = [{"response_id": "", "messages": messages, "text": text} for messages, text in names["chats"]]
    loaded, template, config = load_model(tmp_path / "model")
    served = score_responses(loaded, template, rows)
    if kind == "ordinal":
        expected = torch.tensor([row["p"] for row in served], dtype=torch.float64)
        torch.testing.assert_close(names["calibrated"], expected, rtol=0, atol=1e-5)
        assert not torch.allclose(names["calibrated"], names["p"], atol=1e-2)
    else:
        first, second, _ = scalar_probabilities(
            [served[0]["score"] - served[1]["score"]], tie=config["tie"], temperature=config["temperature"]
        )
        assert (names["p_first"].item(), names["p_second"].item()) == pytest.approx(
            (first[0], second[0]), abs=1e-5
        )


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    trained: Path, make_run: MakeRun, tiny_lm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = make_run(tiny_lm, "bt", name="deep", epochs=1, head_hidden=8)
    train(deep)
    assert main([str(deep / "model"), str(tmp_path / "out")]) == 2
    assert "retrain with head_hidden 0" in capsys.readouterr().err
    assert main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("refused: ")
    assert not (tmp_path / "out").exists()
    assert main([str(trained / "model"), str(tmp_path / "out")]) == 0
    assert json.loads(capsys.readouterr().out)["auto_class"] == "AutoModelForSequenceClassification"
    assert metrics_are_in(tmp_path / "out")  # found beside the model folder
    assert main([str(trained / "model"), str(tmp_path / "out")]) == 0  # an older export is replaced
    assert not list(tmp_path.glob(".out.*"))


def metrics_are_in(folder: Path) -> bool:
    return "Pair accuracy" in (folder / "README.md").read_text()


def test_a_folder_that_would_score_otherwise_is_never_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison is not decoration: a wrong head, or ids of another template, stop the export."""
    original = RewardModel.forward
    monkeypatch.setattr(RewardModel, "forward", lambda *given: original(*given) + 0.01)
    with pytest.raises(ExportError, match="scores differ by"):
        export_model(trained / "model", tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(Template, "frame", property(lambda self: ([], [5], [])))
    with pytest.raises(ExportError, match="does not tokenise"):
        export_model(trained / "model", tmp_path / "out")
    assert list(tmp_path.glob("*out*")) == []


def test_a_head_with_a_bias_from_an_earlier_version_still_loads(trained: Path, tmp_path: Path) -> None:
    model = trained / "model"
    tensors = load_file(model / "reward_head.safetensors")
    assert set(tensors) == {"weight"}
    rows = [{"response_id": "1", "messages": [], "text": "water it"}]
    loaded, template, _ = load_model(model)
    (before,) = score_responses(loaded, template, rows)
    save_file(tensors | {"bias": torch.tensor([0.5])}, model / "reward_head.safetensors")
    config = json.loads((model / "reward_config.json").read_text())
    config["files"]["reward_head.safetensors"] = sha256_of(model / "reward_head.safetensors")
    (model / "reward_config.json").write_text(json.dumps(config))
    loaded, template, _ = load_model(model)
    (after,) = score_responses(loaded, template, rows)
    assert after["score"] == pytest.approx(before["score"] + 0.5, abs=1e-6)
    with pytest.raises(ExportError, match="have no bias"):
        export_model(model, tmp_path / "out")
