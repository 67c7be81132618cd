"""Other trainers at the reward server: TRL trains against it, and what OpenRLHF, slime and verl send is replayed."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from caliper import CaliperError, RewardServer, caliper_reward
from caliper.cli import main
from workers.rewards.artifacts.save import load_model
from workers.rewards.models.predict import score_responses
from workers.rewards.serving.holder import Held
from workers.rewards.serving.templated import untemplated

from .conftest import Server, serving

pytestmark = pytest.mark.one_database

# Each is a whole request as the named code sends it: recorded from aiohttp 3.14.5 and requests 2.34.2, which they use.
REQUESTS = Path(__file__).parent / "requests"
FIRST, SECOND = "how do i keep plant 1 alive", "how do i keep plant 2 alive — “ça va”?"
LIGHT, NO_IDEA, WATER = "water it weekly and give it light 1", "no idea 🌱 2", "water it 1"


def replayed(url: str, name: str) -> Any:
    """The answer to the very bytes of a recorded request."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
        connection.sendall((REQUESTS / name).read_bytes())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        body = answer.read()
    assert answer.status == 200, body
    return json.loads(body)


def scores(folder: Path, *said: tuple[str, str]) -> list[float]:
    """What `score` says of answers to questions."""
    model, template, _ = load_model(folder)
    rows = [
        {
            "response_id": str(n),
            "messages": [{"role": "user", "content": question}] if question else [],
            "tools": [],
            "text": text,
        }
        for n, (question, text) in enumerate(said)
    ]
    return [row["score"] for row in score_responses(model, template, rows)]


def test_requests_of_openrlhf_and_slime_are_answered_byte_for_byte(model_folder: Path, held: Held) -> None:
    first, second, water = scores(model_folder, (FIRST, LIGHT), (SECOND, NO_IDEA), (FIRST, WATER))
    assert len({first, second, water}) == 3
    with serving(held, tokens=[]) as server:
        # openrlhf/utils/agent.py, SingleTurnAgentExecutor._fetch_rewards_via_http (04655bc): a sample a request. It
        # takes the first of a list of answers, and makes a tensor of each value in extra_logs.
        said = replayed(server.url, "openrlhf_agent.http")
        assert said["rewards"] == said["scores"] == [pytest.approx(first, abs=1e-5)]
        assert all(isinstance(value, float) for values in said["extra_logs"].values() for value in values)
        # The same with two reward servers: the second is sent no sample, and tried five times unless it answers.
        assert replayed(server.url, "openrlhf_agent_no_sample.http")["rewards"] == []
        # openrlhf/utils/remote_rm_utils.py, request_api_wrapper (9b8641c): a batch, by requests.
        said = replayed(server.url, "openrlhf_batch.http")
        assert said["rewards"] == [pytest.approx(first, abs=1e-5), pytest.approx(second, abs=1e-5)]
        # The same before prompts were sent (07c34b3): the whole text counts as the answer.
        assert len(replayed(server.url, "openrlhf_old.http")["rewards"]) == 2
        # slime/rollout/rm_hub/__init__.py, remote_rm (0b420f1): the answer is the reward itself.
        assert replayed(server.url, "slime_messages.http") == pytest.approx(water, abs=1e-5)
    # --rm-url http://any:s3cret@...: aiohttp sends the token as Basic. With a template's marks, which are taken off.
    with serving(held, tokens=["s3cret"]) as server:
        assert replayed(server.url, "slime.http") == pytest.approx(second, abs=1e-5)


def test_marks_of_templates_are_taken_off_only_where_all_is_of_the_template() -> None:
    user, system = {"role": "user", "content": "a\nb"}, {"role": "system", "content": "Be short."}
    turns = [system, user, {"role": "assistant", "content": "c"}, user]
    chatml = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns)
    chatml += "<|im_start|>assistant\n"
    assert untemplated(chatml, "d<|im_end|>\n") == (turns, "d")
    assert untemplated(chatml + "<think>\n\n</think>\n\n", "d\n") == (turns, "d\n")
    llama = "<|begin_of_text|>" + "".join(
        f"<|start_header_id|>{turn['role']}<|end_header_id|>\n\n{turn['content']}<|eot_id|>" for turn in turns
    )
    assert untemplated(llama + "<|start_header_id|>assistant<|end_header_id|>\n\n", "d<|eot_id|>") == (
        turns,
        "d",
    )
    gemma = "<bos><start_of_turn>user\na\nb<end_of_turn>\n<start_of_turn>model\n"
    assert untemplated(gemma, "d<end_of_turn>") == ([user], "d")
    others = (
        "What does <|im_start|>user\n mean?",  # somebody asks about the marks
        chatml + "half an answer",
        chatml.replace("assistant\nc", "bard\nc"),
        chatml.removesuffix("<|im_start|>assistant\n"),
        "<|im_start|>assistant\n",
    )
    for prompt in others:
        assert untemplated(prompt, "d") == ([{"role": "user", "content": prompt}], "d"), prompt
    assert untemplated("", "d</s>") == ([], "d")


def test_a_function_for_verl(
    reward_server: Server, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/examples/verl_reward.py, called as verl's reward managers call a custom reward function."""
    monkeypatch.setenv("CALIPER_SERVER", reward_server.url)
    code = Path(__file__).parents[3] / "docs" / "examples" / "verl_reward.py"
    names: dict[str, Any] = {}
    exec(compile(code.read_text(encoding="utf-8"), str(code), "exec"), names)
    # verl/experimental/reward_loop/reward_manager/naive.py and remote.py (16c919d).
    extra = {"prompt": [{"role": "user", "content": FIRST}], "num_turns": 2, "rollout_reward_scores": {}}
    said = names["compute_score"](
        data_source="plants", solution_str=WATER, ground_truth=None, extra_info=extra
    )
    assert said == pytest.approx(scores(model_folder, (FIRST, WATER))[0], abs=1e-5)


def test_grpo_trains_against_the_server(
    tiny_lm: Path, reward_server: Server, model_folder: Path, tmp_path: Path
) -> None:
    """The rewards that the policy is trained on are the scores of its completions."""
    prompts = [[{"role": "user", "content": f"how do i keep plant {number} alive"}] for number in range(4)]
    policy, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_lm), AutoTokenizer.from_pretrained(tiny_lm)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] + '\n' }}{% endfor %}"
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    served = caliper_reward(reward_server.url)
    seen: list[tuple[str, str, float]] = []

    def reward(prompts: Any, completions: Any, **given: Any) -> list[float]:
        rewards = served(prompts, completions, **given)
        for prompt, completion, value in zip(prompts, completions, rewards, strict=True):
            seen.append((prompt[-1]["content"], completion[-1]["content"], value))
        return rewards

    reward.__name__ = served.__name__
    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=8,
        max_steps=2,
        learning_rate=1e-2,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )
    trainer = trl.GRPOTrainer(
        model=policy,
        reward_funcs=reward,
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=tokenizer,
    )
    trainer.train()
    assert len(seen) == 8
    expected = scores(model_folder, *((prompt, text) for prompt, text, _ in seen))
    assert [value for _, _, value in seen] == pytest.approx(expected, abs=1e-5)
    logged = [row for row in trainer.state.log_history if "rewards/caliper_reward/mean" in row]
    assert logged[0]["rewards/caliper_reward/mean"] == pytest.approx(sum(expected[:4]) / 4, abs=1e-4)
    after = trainer.model.state_dict()
    assert any(not before[name].equal(after[name].cpu()) for name in before)


def test_the_reward_of_plain_and_conversational_completions(
    reward_server: Server, model_folder: Path, held: Held
) -> None:
    reward = caliper_reward(reward_server.url)
    said = [{"role": "user", "content": [{"type": "text", "text": FIRST}]}]
    said_plainly = [{"role": "user", "content": FIRST}]
    answer = [{"role": "assistant", "content": WATER}]
    [score] = scores(model_folder, (FIRST, WATER))
    rewards = reward(prompts=[FIRST, said], completions=[WATER, answer], completion_ids=[[1], [2]])
    assert rewards == [pytest.approx(score, abs=1e-5)] * 2
    with pytest.raises(ValueError, match="no text"):
        reward([[{"role": "user", "content": [{"type": "image"}]}]], ["x"])
    called = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look"}}]}
    found = {"role": "tool", "content": "In the pot."}
    turns = [[called, found, *answer], [called, found]]
    whole = reward_server.post("/v1/score", {"items": [{"messages": [*said_plainly, *turns[0]]}]}).json()
    open_end = {"messages": [*said_plainly, *turns[1]], "text": ""}
    none = reward_server.post("/v1/score", {"items": [open_end]}).json()
    expected = [each["scores"][0]["score"] for each in (whole, none)]
    assert reward([said, said], turns) == pytest.approx(expected, abs=1e-5)
    shouted = caliper_reward(
        reward_server.url, prompts_as=lambda prompt: [{"role": "user", "content": prompt.lower()}]
    )
    assert shouted([FIRST.upper()], [WATER]) == [pytest.approx(score, abs=1e-5)]
    with RewardServer(reward_server.url) as server:
        items: Any = [{"prompt": FIRST, "text": WATER}] * 130
        rows = list(server.score(items))
        assert len(rows) == 130
        assert {row["score"] for row in rows} == {rows[0]["score"]}
        assert server.version == {"name": held.name, "digest": held.digest}
        bad: Any = [{"prompt": FIRST, "text": 5}]
        with pytest.raises(CaliperError, match=r"items\[0\]") as refused:
            list(server.score(bad))
    assert refused.value.status == 422
    assert refused.value.errors[0].remedy


def test_a_busy_server_is_asked_again(
    held: Held, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 before a version is loaded; when it is, the request that was sent again is answered."""
    waits: list[float] = []
    with serving(None) as server:

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            server.swap(held)

        monkeypatch.setattr("caliper.transport.time.sleep", sleep)
        rewards = caliper_reward(server.url)([FIRST], [WATER])
    assert rewards == pytest.approx(scores(model_folder, (FIRST, WATER)), abs=1e-5)
    assert len(waits) == 1


def test_the_score_command_adds_scores_to_lines(
    reward_server: Server, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "texts.jsonl"
    rows = [
        {"id": 7, "prompt": FIRST, "text": WATER},
        {"messages": [{"role": "user", "content": SECOND}], "response": NO_IDEA},
    ]
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    assert main(["score", "--server", reward_server.url, str(file)]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["score"] for line in lines] == pytest.approx(
        scores(model_folder, (FIRST, WATER), (SECOND, NO_IDEA)), abs=1e-5
    )
    assert (lines[0]["id"], lines[1]["response"]) == (7, NO_IDEA)
    assert "2 texts scored by" in err
    for text, words in (
        ('{"prompt": "a", "text": "b"}\n{"text": "c"}', "line 2 has no “prompt”"),
        ('{"prompt": "a", "text": "b"}\n[]', "line 2"),
        ('{"prompt": "a", "text": 5}', "items[0].text"),
        ('{"prompt": "a", "text": "\\ud800"}', "can't be sent"),
    ):
        file.write_text(text)
        assert main(["score", "--server", reward_server.url, str(file)]) == 1, text
        assert words in capsys.readouterr().err, text
