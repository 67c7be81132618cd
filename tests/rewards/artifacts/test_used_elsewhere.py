"""An exported folder scores as `python -m workers.rewards.score` does where reward models are used.

TRL and sentence-transformers are the real libraries. OpenRLHF does not install beside them: its reward server's call
and its class's forward (openrlhf/cli/serve_rm.py, models/model.py) are reproduced.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.rewards.text.chat_templates import tokenizer_of
from workers.rewards.artifacts.export import export_model
from workers.rewards.artifacts.save import load_model, save_model
from workers.rewards.models.load import load_backbone, load_tokenizer
from workers.rewards.models.predict import score_responses
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.text.chat import template_of

HOW = {"role": "user", "content": "how do i keep a plant alive?"}
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [HOW],
    [HOW, {"role": "assistant", "content": "Water it ### weekly."}, {"role": "user", "content": "and 2?\n"}],
]
RESPONSES = ["water it weekly and give it light.", "No idea!", "Two lines:\n\n1. water\n2. light", "7"]
CASES = [(chat, text) for chat in CONVERSATIONS for text in RESPONSES]
# base model (a fixture, or the family of its chat template, "bare" without that), method, what the head reads
MODELS = {
    "sections": ("tiny_lm", "bt", "response"),
    "sections-words": ("mistral bare", "bt", "response"),
    "sections-turn": ("tiny_lm", "bt", "turn"),
    "qwen": ("qwen2", "bt", "response"),
    "qwen-turn": ("qwen2", "bt", "turn"),
    "llama-haf": ("llama3", "haf", "response"),
    "mistral": ("mistral", "clf", "response"),
}
RATINGS = {"qwen-oprm": ("qwen2", "oprm", "response")}
Exported = tuple[Path, Path, Path]


@pytest.fixture(scope="module")
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Exported]:
    """exported(name of MODELS) -> folders of the base model, the model with random weights, and its export"""
    made: dict[str, Exported] = {}

    def export(name: str) -> Exported:
        if name not in made:
            base, method, reads = (MODELS | RATINGS)[name]
            place = tmp_path_factory.mktemp(name)
            folder = request.getfixturevalue(base) if base == "tiny_lm" else _chat_model(base, place / "base")
            made[name] = folder, place / "model", place / "export"
            save(place / "model", folder, "causal", method=method, reads=reads)
            export_model(place / "model", place / "export")
        return made[name]

    return export


def _chat_model(family: str, folder: Path) -> Path:
    """A language model of one layer whose tokenizer has the family's chat template, or none."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    family, _, bare = family.partition(" ")
    tokenizer = tokenizer_of(family)
    if bare:
        tokenizer.chat_template = None
    config, model = (Qwen2Config, Qwen2ForCausalLM) if family == "qwen2" else (LlamaConfig, LlamaForCausalLM)
    torch.manual_seed(0)
    model(
        config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save(folder: Path, base: Path, architecture: str, *, method: str, **given: Any) -> None:
    """A model with a random head, which is no easier to export than a trained one."""
    ordinal = method == "oprm"
    template = template_of(
        load_tokenizer("tiny", str(base)),
        architecture=architecture,
        ordinal=ordinal,
        max_length=128 if architecture == "encoder" else 512,
        policy=method == "haf",
        **given,
    )
    torch.manual_seed(0)
    model = RewardModel(
        load_backbone("tiny", str(base), architecture),
        architecture=architecture,
        kind="ordinal" if ordinal else "scalar",
        digit_ids=template.digit_ids,
    )
    if model.head is not None:
        torch.nn.init.normal_(model.head.weight)
    save_model(folder, model, template, method=method, partition=(3, 6), base_model="tiny")


def _scored(folder: Path, cases: list[Any]) -> list[float]:
    """By the command's own function."""
    model, template, _ = load_model(folder)
    rows = [{"response_id": "", "messages": messages, "text": text} for messages, text in cases]
    return [row["score"] for row in score_responses(model, template, rows)]


def _begun(tokenizer: Any, messages: list[Any]) -> str:
    """What the export's chat template writes before a response."""
    text: str = tokenizer.apply_chat_template(
        [*messages, {"role": "assistant", "content": ""}], tokenize=False
    )
    return text


def _told(form: str, tokenizer: Any, messages: list[Any], response: str) -> tuple[Any, Any]:
    """Prompt and completion as TRL hands them to a reward model."""
    if form == "conversational":
        return messages, [{"role": "assistant", "content": response}]
    return _begun(tokenizer, messages), response


def _trainer(exported: Path, base: Path, prompts: list[Any], place: Path) -> Any:
    """GRPOTrainer on the base model, with the export's chat template, told but the folder of the reward."""
    trl = pytest.importorskip("trl", reason="trl is in the dev extra")
    from datasets import Dataset
    from transformers import AutoTokenizer

    policy = place / "policy"
    shutil.copytree(base, policy)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.chat_template = AutoTokenizer.from_pretrained(exported).chat_template
    tokenizer.save_pretrained(policy)
    arguments = trl.GRPOConfig(
        output_dir=str(place / "out"),
        max_steps=2,
        num_generations=2,
        per_device_train_batch_size=2,
        max_completion_length=8,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
    )
    return trl.GRPOTrainer(
        model=str(policy),
        reward_funcs=[str(exported)],
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
    )


@pytest.mark.parametrize("name", MODELS)
def test_trl_scores_the_same(name: str, exported: Callable[[str], Exported], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    base, model, folder = exported(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    trainer = _trainer(folder, base, CONVERSATIONS, tmp_path)
    expected = _scored(model, CASES)
    assert max(expected) - min(expected) > 0.1
    for form in ("conversational", "plain"):
        prompts, completions = zip(*(_told(form, tokenizer, *case) for case in CASES), strict=True)
        told = [{}] * len(CASES), list(prompts), list(completions), [[0]] * len(CASES)
        got = trainer._calculate_rewards(*told)[:, 0].tolist()
        if (MODELS[name][2], form) == (
            "turn",
            "plain",
        ):  # a text's end token never reaches TRL's reward model
            assert got != pytest.approx(expected, abs=1e-2)
        else:
            assert got == pytest.approx(expected, abs=1e-4), form


@pytest.mark.parametrize(("name", "form"), [("qwen", "conversational"), ("sections", "plain")])
def test_trl_trains_on_the_same_score(
    name: str, form: str, exported: Callable[[str], Exported], tmp_path: Path
) -> None:
    """Two real steps: what the policy writes is scored as the command scores it."""
    from transformers import AutoTokenizer

    base, model, folder = exported(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [_told(form, tokenizer, chat, "")[0] for chat in CONVERSATIONS]
    trainer = _trainer(folder, base, prompts, tmp_path)
    seen: list[tuple[Any, Any, float]] = []
    calculate = trainer._calculate_rewards

    def recorded(inputs: Any, prompts: Any, completions: Any, ids: Any) -> Any:
        rewards = calculate(inputs, prompts, completions, ids)
        seen.extend(zip(prompts, completions, rewards[:, 0].tolist(), strict=True))
        return rewards

    trainer._calculate_rewards = recorded
    trainer.train()
    assert len(seen) == 4
    cases = [
        (CONVERSATIONS[prompts.index(prompt)], said if form == "plain" else said[0]["content"])
        for prompt, said, _ in seen
    ]
    assert [reward for *_, reward in seen] == pytest.approx(_scored(model, cases), abs=1e-4)


def _openrlhf(folder: Path, queries: list[str]) -> list[float]:
    """What the reward server answers: it reads the score at the last token that attention sees."""
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    tokenizer.padding_side = "left"
    body = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    head = load_file(folder / "model.safetensors")["score.weight"]
    batch = tokenizer(
        queries, return_tensors="pt", add_special_tokens=False, max_length=2048, padding=True, truncation=True
    )
    mask = batch["attention_mask"]
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    with torch.no_grad():
        hidden = body(batch["input_ids"], attention_mask=mask, position_ids=positions).last_hidden_state
    last = mask.shape[1] - 1 - mask.fliplr().argmax(dim=1)
    return (hidden[torch.arange(len(last)), last] @ head.T).squeeze(1).tolist()


@pytest.mark.parametrize("name", MODELS)
def test_openrlhf_serves_the_same_score(name: str, exported: Callable[[str], Exported]) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    _, model, folder = exported(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = _scored(model, CASES)
    if MODELS[name][2] == "turn":
        queries = [
            tokenizer.apply_chat_template([*chat, {"role": "assistant", "content": text}], tokenize=False)
            for chat, text in CASES
        ]
        assert _openrlhf(folder, queries) == pytest.approx(expected, abs=1e-4)
        return
    begun = [_begun(tokenizer, chat) + text for chat, text in CASES]
    end = tokenizer.eos_token
    # the end token once, as policies write it, or not at all, of a response that was cut off, or several times
    queries = [text + end * (1, 0, 2)[number % 3] for number, text in enumerate(begun)]
    assert _openrlhf(folder, queries) == pytest.approx(expected, abs=1e-4)
    # the same texts to transformers' own class and the plain tokenizer
    batch = tokenizer(queries, return_tensors="pt", add_special_tokens=False, padding=True)
    with torch.no_grad():
        logits = AutoModelForSequenceClassification.from_pretrained(folder)(**batch).logits
    assert logits[:, 0].tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("given", [{}, {"pool_prompt": False}], ids=["whole", "response"])
def test_a_cross_encoder_predicts_the_same_score(
    given: dict[str, Any], tiny_encoder: Path, tmp_path: Path
) -> None:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is in the dev extra")
    save(tmp_path / "model", tiny_encoder, "encoder", method="bt", **given)
    export_model(tmp_path / "model", tmp_path / "out")
    pairs = [
        ("how do i keep plant 3 alive", text)
        for text in ("water it", "no idea", "[SEP] water it", "light " * 9)
    ]
    got = library.CrossEncoder(str(tmp_path / "out"), trust_remote_code=True, device="cpu").predict(pairs)
    expected = _scored(
        tmp_path / "model", [([{"role": "user", "content": ask}], text) for ask, text in pairs]
    )
    assert got.tolist() == pytest.approx(expected, abs=1e-4)
    assert len({round(score, 3) for score in expected}) == len(pairs)


@pytest.mark.parametrize("name", ["qwen", "qwen-turn", "llama-haf", "mistral", "qwen-oprm"])
def test_the_cards_code_scores_the_same(name: str, exported: Callable[[str], Exported]) -> None:
    """In plain transformers; test_export.py has the other models."""
    _, model, folder = exported(name)
    card = (folder / "README.md").read_text(encoding="utf-8")
    code = (
        card.partition("```python\n")[2]
        .partition("```")[0]
        .replace('folder = "."', f"folder = {str(folder)!r}")
    )
    names: dict[str, Any] = {"CASES": CASES}
    exec(re.sub(r"chats = \[.*?\n\]\n", "chats = CASES\n", code, flags=re.S), names)
    assert names["rewards"].tolist() == pytest.approx(_scored(model, CASES), abs=1e-4)


@pytest.mark.parametrize("name", ["sections", "qwen", "mistral"])
def test_a_training_that_starts_from_an_export_reads_as_its_base_model_does(
    name: str, exported: Callable[[str], Exported]
) -> None:
    base, _, folder = exported(name)
    rows = [{"messages": chat, "text": text} for chat, text in CASES]
    read = [
        template_of(
            load_tokenizer("tiny", str(path)),
            architecture="causal",
            ordinal=False,
            max_length=512,
            policy=True,
        ).encode(rows)
        for path in (base, folder)
    ]
    assert read[0] == read[1]


def test_a_folder_that_can_not_be_read_as_one_text_carries_no_chat_template(tmp_path: Path) -> None:
    """Llama 2's own normaliser marks where a text begins: prompt and response apart are not what they are joined."""
    save(tmp_path / "model", _chat_model("llama2 bare", tmp_path / "base"), "causal", method="bt")
    report = export_model(tmp_path / "model", tmp_path / "out")
    assert not report["chat"]
    assert not list((tmp_path / "out").glob("chat_template*"))
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "Give them a function that calls `encode`" in card
    assert "GRPOTrainer" not in card
