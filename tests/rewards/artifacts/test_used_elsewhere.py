"""An exported folder scores as `python -m workers.rewards.score` does where reward models are used.

TRL and sentence-transformers are the real libraries. OpenRLHF does not install beside them: its reward server's call
and its class's forward (openrlhf/cli/serve_rm.py, models/model.py) are reproduced.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from workers.rewards.artifacts.export import export_model
from workers.rewards.artifacts.save import load_model, save_model
from workers.rewards.models.load import load_backbone, load_tokenizer
from workers.rewards.models.predict import score_responses
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.text.sections import Template

SYSTEM = {"role": "system", "content": "Be brief."}
HOW = {"role": "user", "content": "how do i keep a plant alive?"}
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [HOW],
    [
        SYSTEM,
        HOW,
        {"role": "assistant", "content": "Water it ### weekly."},
        {"role": "user", "content": "and 2?\n"},
    ],
]
RESPONSES = ["water it weekly and give it light.", "No idea!", "Two lines:\n\n1. water\n2. light", "7", ""]
CASES = [(chat, text) for chat in CONVERSATIONS for text in RESPONSES]
# base model, method, whether the head reads the turn's end
MODELS = {
    "sections": ("tiny_lm", "bt", "response"),
    "sections-haf": ("tiny_lm", "haf", "response"),
    "sections-end": ("tiny_lm", "bt", "turn"),
}
Exported = tuple[Path, Path]


@pytest.fixture(scope="module")
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Exported]:
    """exported(name of MODELS) -> the model's folder and its export; random weights, which are no easier than others"""
    made: dict[str, Exported] = {}

    def export(name: str) -> Exported:
        if name not in made:
            base, method, reads = MODELS[name]
            place = tmp_path_factory.mktemp(name)
            made[name] = place / "model", place / "export"
            _save(place / "model", request.getfixturevalue(base), "causal", method=method, reads=reads)
            export_model(*made[name])
        return made[name]

    return export


def _save(folder: Path, base: Path, architecture: str, *, method: str, **given: Any) -> None:
    tokenizer = load_tokenizer("tiny", str(base))
    ordinal = method == "oprm"
    policy = {"policy": method == "haf"} if architecture == "causal" else {}
    template = Template(
        tokenizer, architecture=architecture, ordinal=ordinal, max_length=256, **policy, **given
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


def _trainer(exported: Path, policy: Path, prompts: list[Any], place: Path) -> Any:
    trl = pytest.importorskip("trl", reason="trl is in the dev extra")
    from datasets import Dataset

    arguments = trl.GRPOConfig(
        output_dir=str(place),
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


def _policy(base: Path, exported: Path, place: Path) -> Path:
    """The base model with the export's chat template: what somebody would train against the reward."""
    from transformers import AutoTokenizer

    shutil.copytree(base, place)
    tokenizer = AutoTokenizer.from_pretrained(place)
    tokenizer.chat_template = AutoTokenizer.from_pretrained(exported).chat_template
    tokenizer.save_pretrained(place)
    return place


@pytest.mark.parametrize("form", ["conversational", "plain"])
@pytest.mark.parametrize("name", MODELS)
def test_trl_trains_on_the_same_score(
    name: str, form: str, exported: Callable[[str], Exported], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """GRPOTrainer, told but the folder's name: two real steps, and then completions of ours."""
    from transformers import AutoTokenizer

    model, folder = exported(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def prompt(messages: list[Any]) -> Any:
        if form == "conversational":
            return messages
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def completion(text: str) -> Any:
        return [{"role": "assistant", "content": text}] if form == "conversational" else text

    policy = _policy(request.getfixturevalue(MODELS[name][0]), folder, tmp_path / "policy")
    trainer = _trainer(folder, policy, [prompt(chat) for chat in CONVERSATIONS], tmp_path / "out")
    seen: list[tuple[Any, Any, float]] = []
    calculate = trainer._calculate_rewards

    def recorded(inputs: Any, prompts: Any, completions: Any, ids: Any) -> Any:
        rewards = calculate(inputs, prompts, completions, ids)
        seen.extend(zip(prompts, completions, rewards[:, 0].tolist(), strict=True))
        return rewards

    trainer._calculate_rewards = recorded
    trainer.train()
    assert len(seen) == 4
    by_prompt = {str(prompt(chat)): chat for chat in CONVERSATIONS}
    generated = [
        (by_prompt[str(given)], said if isinstance(said, str) else said[0]["content"])
        for given, said, _ in seen
    ]
    given = [prompt(chat) for chat, _ in CASES]
    said = [completion(text) for _, text in CASES]
    rewards = calculate([{}] * len(CASES), given, said, [[0]] * len(CASES))[:, 0].tolist()
    expected = _scored(model, [*generated, *CASES])
    got = [*(reward for *_, reward in seen), *rewards]
    if (name, form) == ("sections-end", "plain"):  # a text's end token never reaches TRL's reward model
        assert got != pytest.approx(expected, abs=1e-2)
    else:
        assert got == pytest.approx(expected, abs=1e-4)
    assert max(expected) - min(expected) > 0.1


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

    model, folder = exported(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    reads_end = MODELS[name][2] == "turn"
    begun = [
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) + text
        for chat, text in CASES
    ]
    end = tokenizer.eos_token
    expected = _scored(model, CASES)
    assert _openrlhf(folder, [text + end for text in begun]) == pytest.approx(expected, abs=1e-4)
    if reads_end:
        return
    # a response that was cut off, or is followed by several end tokens
    mixed = [text + end * (number % 3) for number, text in enumerate(begun)]
    assert _openrlhf(folder, mixed) == pytest.approx(expected, abs=1e-4)
    # the same texts to transformers' own class and the plain tokenizer
    batch = tokenizer(mixed, return_tensors="pt", add_special_tokens=False, padding=True)
    with torch.no_grad():
        logits = AutoModelForSequenceClassification.from_pretrained(folder)(**batch).logits
    assert logits[:, 0].tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("given", [{}, {"pool_prompt": False}], ids=["whole", "response"])
def test_a_cross_encoder_predicts_the_same_score(
    given: dict[str, Any], tiny_encoder: Path, tmp_path: Path
) -> None:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is in the dev extra")
    _save(tmp_path / "model", tiny_encoder, "encoder", method="bt", **given)
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
