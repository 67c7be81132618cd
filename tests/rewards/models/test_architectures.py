"""Base models of every architecture that people name: what each is taken for, trained a step, saved and loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn as nn
import transformers
from safetensors.torch import load_file, save_file

from workers.rewards.artifacts.export import export_model, pack_model
from workers.rewards.artifacts.save import load_model
from workers.rewards.config import Refused
from workers.rewards.data.snapshot import read_snapshot
from workers.rewards.models.base_models import FOLDERS_VARIABLE, Source
from workers.rewards.models.encode import ResponseEncoder
from workers.rewards.models.kinds import Base, look_at
from workers.rewards.models.load import load_base, load_merged
from workers.rewards.models.reward_model import longest_text
from workers.rewards.text.sections import collate
from workers.rewards.train import main
from workers.rewards.training.loop import train

MakeRun = Callable[..., Path]
CPU = torch.device("cpu")
POSITIONS = 160
SMALL: dict[str, Any] = {
    "vocab_size": 420,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
GEMMA = {**GROUPED, "head_dim": 8, "sliding_window": 64}
DEBERTA = {
    **SMALL,
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
MODERN = {**SMALL, "cls_token_id": 0, "sep_token_id": 0, "local_attention": 128}
GPT2 = {"vocab_size": 420, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS}
TIED = {**GROUPED, "tie_word_embeddings": True}
# class, its settings, what it is, the longest text that it has positions for
FAMILIES: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "bert": ("BertForMaskedLM", SMALL, "encoder", POSITIONS),
    "roberta": ("RobertaModel", {**SMALL, "pad_token_id": 1}, "encoder", POSITIONS - 2),
    "deberta-v3": ("DebertaV2Model", DEBERTA, "encoder", POSITIONS),
    "modernbert": ("ModernBertForMaskedLM", MODERN, "encoder", POSITIONS),
    "bert, reward model": ("BertForSequenceClassification", {**SMALL, "num_labels": 1}, "encoder", POSITIONS),
    "bert, decoder": ("BertLMHeadModel", {**SMALL, "is_decoder": True}, "causal", POSITIONS),
    "qwen2": ("Qwen2ForCausalLM", GROUPED, "causal", POSITIONS),
    "qwen3": ("Qwen3ForCausalLM", {**TIED, "head_dim": 8}, "causal", POSITIONS),
    "llama": ("LlamaForCausalLM", GROUPED, "causal", POSITIONS),
    "mistral": ("MistralForCausalLM", GROUPED, "causal", POSITIONS),
    "gemma3": ("Gemma3ForCausalLM", GEMMA, "causal", POSITIONS),
    "phi": ("PhiForCausalLM", SMALL, "causal", POSITIONS),
    "gpt2": ("GPT2LMHeadModel", GPT2, "causal", POSITIONS),
    "qwen2, reward model": (
        "Qwen2ForSequenceClassification",
        {**GROUPED, "num_labels": 1},
        "causal",
        POSITIONS,
    ),
    "qwen3, reward model": (
        "Qwen3ForSequenceClassification",
        {**TIED, "head_dim": 8, "num_labels": 1},
        "causal",
        POSITIONS,
    ),
    "llama, reward model": (
        "LlamaForSequenceClassification",
        {**GROUPED, "num_labels": 1},
        "causal",
        POSITIONS,
    ),
}
CLASSIFIERS = [name for name in FAMILIES if "reward model" in name and FAMILIES[name][2] == "causal"]


# what comes out is what went in
STILL = {
    "learning_rate": 0.0,
    "head_learning_rate": 0.0,
    "weight_decay": 0.0,
    "epochs": 1,
    "token_budget": 1500,
}


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Path) -> Callable[[str], Path]:
    """base_model(family) is a folder with random weights, large enough to matter, and the one tokenizer of all."""
    folders: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in folders:
            network, settings, _, _ = FAMILIES[family]
            folders[family] = tmp_path_factory.mktemp("base") / network
            write_model(folders[family], network, settings, tiny_lm)
        return folders[family]

    return make


def write_model(folder: Path, network: str, settings: dict[str, Any], tokenizer: Path) -> Any:
    """Saves a model of this class as transformers save it, with random weights; returns it."""
    made = getattr(transformers, network)
    torch.manual_seed(0)
    model = made(made.config_class(**settings)).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    for file in tokenizer.glob("tokenizer*.json"):
        shutil.copyfile(file, folder / file.name)
    return model


def look(folder: Path) -> Base:
    return look_at("model", Source(str(folder)))


def messages(run: Path) -> list[str]:
    lines = (run / "progress.jsonl").read_text().splitlines()
    return [said for line in lines if (said := json.loads(line).get("message"))]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_architecture_trains_and_loads_again(
    family: str, base_model: Callable[[str], Path], make_run: MakeRun
) -> None:
    _, _, architecture, longest = FAMILIES[family]
    base = look(base_model(family))
    assert base.architecture == architecture
    assert base.classifier == ("reward model" in family)
    assert longest_text(load_base(base)) == longest
    run = make_run(base_model(family), "bt", epochs=1, token_budget=1500)
    metrics = train(run)
    assert metrics["config"]["backbone"] == architecture
    model, template, _ = load_model(run / "model")
    assert template.max_length == longest
    before, after = load_base(base).state_dict(), model.backbone.state_dict()
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    responses = read_snapshot(run / "snapshot").responses
    rows = template.encode(responses)
    told = {
        row["response_id"]: row["score"] for row in pq.read_table(run / "predictions.parquet").to_pylist()
    }
    expected = [told[row["response_id"]] for row in responses]
    assert max(expected) - min(expected) > 0.01
    with torch.no_grad():
        alone = [model(*collate([row], CPU)).item() for row in rows]
        together = ResponseEncoder(model, CPU, 300, longest=longest).scores(rows)[0].tolist()
    assert alone == pytest.approx(expected, abs=1e-4)
    assert together == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_a_reward_models_head_is_taken_over(
    family: str, base_model: Callable[[str], Path], make_run: MakeRun
) -> None:
    """A run of no learning rate scores as transformers do at the same ids."""
    folder = base_model(family)
    tuning = "lora" if family.startswith("llama") else "tuned"
    run = make_run(folder, "bt", tuning=tuning, **STILL)
    train(run)
    assert f"the head goes on from {folder}'s" in messages(run)
    model, template, _ = load_model(run / "model")
    published: Any = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    published.config.pad_token_id = None  # it then reads the last token
    for row in template.encode(read_snapshot(run / "snapshot").responses[:4]):
        read = torch.tensor([row.ids])[:, : len(row) - getattr(row, "after", 0)]
        with torch.no_grad():
            theirs = published(read).logits.item()
            ours = model(*collate([row], CPU)).item()
        assert ours == pytest.approx(theirs, abs=1e-5)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "T5": (
        {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
        "is an encoder-decoder (T5ForConditionalGeneration)",
    ),
    "BART": ({"model_type": "bart", "architectures": ["BartForCausalLM"]}, "is an encoder-decoder"),
    "Qwen2.5-VL": (
        {
            "model_type": "qwen2_5_vl",
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "vision_config": {"depth": 2},
        },
        "also reads images or sound (Qwen2_5_VLForConditionalGeneration)",
    ),
    "CLIP": (
        {"model_type": "clip", "architectures": ["CLIPModel"]},
        "also reads images or sound (CLIPModel)",
    ),
    "Whisper": ({"model_type": "whisper", "architectures": ["WhisperForCausalLM"]}, "is an encoder-decoder"),
    "Wav2Vec2": (
        {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"]},
        "(Wav2Vec2ForCTC) is neither a text encoder nor a causal language model",
    ),
    "unknown": ({"model_type": "martian"}, "is a 'martian', which transformers"),
    "own code": (
        {"model_type": "martian", "auto_map": {"AutoConfig": "m.C"}},
        "doesn't know (it needs code of its own, which is never run)",
    ),
    "three labels": (
        {
            "model_type": "bert",
            "architectures": ["BertForSequenceClassification"],
            "id2label": {"0": "a", "1": "b", "2": "c"},
        },
        "is a classifier of 3 labels (BertForSequenceClassification), not a reward model",
    ),
    "labels of tokens": (
        {"model_type": "qwen2", "architectures": ["Qwen2ForTokenClassification"]},
        "was made for another task (Qwen2ForTokenClassification)",
    ),
    "quantised": (
        {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "quantization_config": {"quant_method": "gptq"},
        },
        "is quantised (gptq)",
    ),
    "reads both ways": (
        {
            "model_type": "gemma3_text",
            "architectures": ["Gemma3TextModel"],
            "use_bidirectional_attention": True,
        },
        "its tokens see those after them",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_neither_is_refused_by_name_before_any_work(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run has no snapshot: nothing but configurations was read."""
    config, reason = REFUSED[name]
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    told = refusal(tmp_path, folder, "bt")
    assert reason in told
    assert "choose" in told
    assert capsys.readouterr().err.splitlines()[-1] == f"refused: {told}"


def refusal(tmp_path: Path, base_model: Path | str, method: str, **config: Any) -> str:
    """The one line that a run of this base model is refused with."""
    run = tmp_path / "run"
    run.mkdir(exist_ok=True)
    (run / "config.json").write_text(json.dumps({"method": method, "base_model": str(base_model), **config}))
    assert main([str(run)]) == 2
    told = json.loads((run / "error.json").read_text())["message"]
    assert "\n" not in told
    return str(told)


@pytest.mark.parametrize("method", ["oprm", "rgft", "haf"])
def test_what_reads_the_lm_head_needs_one(
    method: str, base_model: Callable[[str], Path], make_run: MakeRun, tmp_path: Path
) -> None:
    told = refusal(tmp_path, base_model("llama, reward model"), method)
    assert f"method {method}" in told
    assert "hasn't (it is a reward model); use bt or clf, or choose the language model" in told
    tied = base_model("qwen3, reward model")
    run = make_run(tied, method, name="tied", epochs=1, token_budget=1500)
    train(run)
    model, _, _ = load_model(run / "model")
    assert model.lm_head_weight is model.backbone.get_input_embeddings().weight  # type: ignore[operator]
    ordinal = method != "haf"
    note = (
        f"the head starts anew, not from {tied}'s: this method reads its ratings from the language model's own"
        if ordinal
        else f"the head goes on from {tied}'s"
    )
    assert note in messages(run)


def test_misfits_of_method_and_tuning_are_refused_before_any_work(
    base_model: Callable[[str], Path], tmp_path: Path
) -> None:
    assert "needs a causal language model" in refusal(tmp_path, base_model("bert"), "haf")
    assert "tuning is 'frozen'" in refusal(tmp_path, base_model("llama"), "bt", tuning="frozen")
    assert "backbone is 'encoder'" in refusal(tmp_path, base_model("llama"), "bt", backbone="encoder")


def test_a_hidden_head_and_another_reading_start_anew(
    base_model: Callable[[str], Path], make_run: MakeRun
) -> None:
    notes = {
        ("qwen2, reward model", 8): "it has another form",
        ("bert, reward model", 0): "it reads the first token, this program the mean over the response",
    }
    for number, ((family, width), why) in enumerate(notes.items()):
        run = make_run(
            base_model(family), "bt", name=f"run-{number}", epochs=1, head_hidden=width, token_budget=1500
        )
        train(run)
        assert f"the head starts anew, not from {base_model(family)}'s: {why}" in messages(run)


def test_missing_weights_are_refused(base_model: Callable[[str], Path], tmp_path: Path) -> None:
    """They would be random, and nobody would see it."""
    folder = tmp_path / "part"
    shutil.copytree(base_model("llama"), folder)
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(Refused, match=r"lack 1 of the weights, such as lm_head\.weight"):
        load_merged(look(folder))


def test_the_text_part_of_gemma_3_is_a_base_model(tmp_path: Path, tiny_lm: Path, make_run: MakeRun) -> None:
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 16, "patch_size": 8}
    config = {"text_config": {**GEMMA}, "vision_config": vision, "mm_tokens_per_image": 4}
    whole = write_model(tmp_path / "gemma", "Gemma3ForConditionalGeneration", config, tiny_lm)
    base = look(tmp_path / "gemma")
    assert (base.architecture, base.config.model_type, base.writes) == ("causal", "gemma3_text", True)
    ids = torch.arange(5, 25).unsqueeze(0)
    part: Any = load_base(base).eval()
    with torch.no_grad():
        assert torch.allclose(part(input_ids=ids).logits, whole(input_ids=ids).logits, atol=1e-5)
    run = make_run(tmp_path / "gemma", "oprm", epochs=1, token_budget=1500)
    train(run)
    assert load_model(run / "model")[0].backbone.config.model_type == "gemma3_text"  # type: ignore[union-attr]


STILL = {
    "learning_rate": 0.0,
    "head_learning_rate": 0.0,
    "weight_decay": 0.0,
    "epochs": 1,
    "token_budget": 1500,
}


def scores(run: Path) -> dict[str, float]:
    return {
        row["response_id"]: row["score"] for row in pq.read_table(run / "predictions.parquet").to_pylist()
    }


@pytest.mark.parametrize("way", ["export", "pack"])
@pytest.mark.parametrize(
    ("family", "method", "head"), [("llama", "bt", True), ("llama", "oprm", False), ("bert", "rgft", True)]
)
def test_what_caliper_exported_goes_on_as_it_was(
    way: str,
    family: str,
    method: str,
    head: bool,
    base_model: Callable[[str], Path],
    make_run: MakeRun,
    tmp_path: Path,
) -> None:
    """Backbone, head and cut points: a run of no learning rate scores as the model that was exported."""
    first = make_run(base_model(family), method, name="first", epochs=1, seed=3)
    train(first)
    out = tmp_path / "out"
    (export_model if way == "export" else pack_model)(first / "model", out)
    base = look(out)
    assert base.caliper is not None
    assert (base.architecture, base.reads) == ("encoder" if family == "bert" else "causal", "response")
    second = make_run(out, method, name="second", seed=4, **STILL)
    train(second)
    assert (f"the head goes on from {out}'s" in messages(second)) == head
    backbone: Any = load_model(second / "model")[0].backbone
    assert not hasattr(backbone.config, "caliper")
    if method == "bt":
        cuts = [load_model(run / "model")[2]["level_cuts"] for run in (first, second)]
        assert cuts[1] == pytest.approx(cuts[0], abs=1e-3)
        assert list(scores(second).values()) == pytest.approx(list(scores(first).values()), abs=1e-4)


@pytest.fixture
def adapters(tmp_path: Path, base_model: Callable[[str], Path]) -> Callable[..., Path]:
    """adapters(FOLDER, "CAUSAL_LM") is a folder of LoRA adapters over it, as peft saves them, not the identity."""

    def make(below: Path, task: str, **settings: Any) -> Path:
        kind = getattr(
            transformers, f"AutoModelFor{'CausalLM' if task == 'CAUSAL_LM' else 'SequenceClassification'}"
        )
        options = {} if task == "CAUSAL_LM" else {"num_labels": 1}
        config = peft.LoraConfig(task_type=task, r=4, target_modules="all-linear", **settings)
        wrapper: Any = peft.get_peft_model(kind.from_pretrained(below, **options), config)
        torch.manual_seed(5)
        for name, parameter in wrapper.named_parameters():
            if "lora_" in name or "score" in name:
                nn.init.normal_(parameter, std=0.3)
        folder = tmp_path / f"adapters-{task}"
        wrapper.save_pretrained(folder)
        torch.save(wrapper.state_dict(), tmp_path / f"{task}.pt")
        return folder

    return make


def test_adapters_are_merged_over_their_base_model(
    adapters: Callable[..., Path], base_model: Callable[[str], Path], make_run: MakeRun
) -> None:
    """Those of a language model, and those of a reward model with its head among modules_to_save."""
    ids = torch.arange(5, 25).unsqueeze(0)
    folder = adapters(base_model("llama"), "CAUSAL_LM")
    base = look(folder)
    assert (base.architecture, base.classifier, base.writes) == ("causal", False, True)
    theirs: Any = peft.AutoPeftModelForCausalLM.from_pretrained(folder).eval()
    ours: Any = load_merged(base).eval()
    with torch.no_grad():
        assert torch.allclose(ours(input_ids=ids).logits, theirs(input_ids=ids).logits, atol=1e-4)
    assert not [name for name, _ in ours.named_parameters() if "lora" in name]
    assert all(parameter.requires_grad for parameter in ours.parameters())
    for tuning in ("tuned", "lora"):
        train(make_run(folder, "oprm", name=tuning, tuning=tuning, epochs=1, token_budget=1500))

    folder = adapters(base_model("llama"), "SEQ_CLS")
    theirs = peft.AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=1).eval()
    theirs.config.pad_token_id = None
    run = make_run(folder, "bt", name="scalar", **STILL)
    train(run)
    assert f"the head goes on from {folder}'s" in messages(run)
    model, _, _ = load_model(run / "model")
    with torch.no_grad():
        assert model(ids, torch.tensor([20]), torch.tensor([0])).item() == pytest.approx(
            theirs(ids).logits.item(), abs=1e-4
        )


def test_adapters_that_cannot_be_used_are_refused_by_name(
    adapters: Callable[..., Path],
    base_model: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = adapters(base_model("llama"), "CAUSAL_LM")
    path = folder / "adapter_config.json"
    plain = json.loads(path.read_text())

    def told(**changed: Any) -> str:
        path.write_text(json.dumps({**plain, **changed}))
        return refusal(tmp_path, folder, "bt")

    assert f"{str(folder)!r} is adapters of type 'IA3'" in told(peft_type="IA3")
    assert "is adapters over 'a local folder', which may not be used or isn't here" in told(
        base_model_name_or_path="/nowhere"
    )
    assert "is adapters that changed" in told(init_lora_weights="pissa")
    assert "is adapters with layer_replication" in told(layer_replication=[[0, 1]])
    assert "is itself adapters" in told(base_model_name_or_path=str(folder))
    path.write_text(json.dumps({**plain, "target_modules": ["q_proj"]}))
    with pytest.raises(Refused, match="that don't fit"):
        load_merged(look(folder))
    path.write_text(json.dumps(plain))
    monkeypatch.setenv(FOLDERS_VARIABLE, json.dumps([str(folder)]))
    with pytest.raises(Refused, match="may not be used"):
        look(folder)  # a worker allows the adapters, not the model below
    monkeypatch.setenv(FOLDERS_VARIABLE, json.dumps([str(folder), str(base_model("llama"))]))
    assert look(folder).source.path == str(base_model("llama").resolve())


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_published_reward_model_reads_the_turn_as_it_was_taught(
    base_model: Callable[[str], Path], make_run: MakeRun, tmp_path: Path
) -> None:
    """Skywork's card: score = model(tokenizer.apply_chat_template(conversation)); its last token is the template's."""
    folder = tmp_path / "published"
    shutil.copytree(base_model("qwen2, reward model"), folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    run = make_run(folder, "bt", **STILL)
    train(run)
    published: Any = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    published.config.pad_token_id = None
    ours = scores(run)
    for row in read_snapshot(run / "snapshot").responses[:6]:
        turns = [*row["messages"], {"role": "assistant", "content": row["text"]}]
        ids = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False)[
            "input_ids"
        ]
        with torch.no_grad():
            theirs = published(torch.tensor([ids])).logits.item()
        assert ours[row["response_id"]] == pytest.approx(theirs, abs=1e-4)
    assert load_model(run / "model")[1].reads == "turn"
    export_model(run / "model", tmp_path / "out")
    assert look(tmp_path / "out").reads == look(run / "model").reads == "turn"
    again = make_run(tmp_path / "out", "bt", name="again", **STILL)
    train(again)
    assert list(scores(again).values()) == pytest.approx(list(ours.values()), abs=1e-4)
