"""Scores of a reward server: for scripts, and as a reward function of TRL's trainers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NotRequired, TypedDict, cast

import httpx

from caliper.errors import CaliperError, read_json
from caliper.transport import Transport


class Message(TypedDict):
    """One turn of a conversation. `content` may be None beside tool calls."""

    role: str
    content: str | None
    name: NotRequired[str]
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]


class Item(TypedDict):
    """What a reward server scores: a conversation (or a bare prompt) and the answer to it."""

    messages: NotRequired[list[Message]]
    prompt: NotRequired[str]
    text: NotRequired[str]


class ScoringVersion(TypedDict):
    """The version that scored."""

    name: str
    digest: str


class Score(TypedDict):
    """The score of one text. `expected`, `spread` and `p` (the ratings 1 to 9) are of versions that rate."""

    score: float
    expected: float | None
    spread: float | None
    p: list[float] | None
    percentile: float | None
    truncated: bool


BATCH = 64
"""Texts a request."""

LETTERS = 2_000_000
"""Letters a request; a server takes 16 MiB."""

PATIENT = 12
"""Tries a request while a policy trains: about two minutes, in which a server may be started again."""


class RewardServer:
    """The reward server at `url` (`python -m workers.rewards.serve`).

    with RewardServer("http://127.0.0.1:8100") as server:
        [row] = server.score([{"prompt": "Capital of France?", "text": "Paris."}])
        print(row["score"])
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout: float = 600.0,
        tries: int | None = None,
        http: httpx.BaseTransport | None = None,
    ) -> None:
        self.transport = Transport(url, token, timeout=timeout, tries=tries, http=http)
        self.version: ScoringVersion | None = None

    def __enter__(self) -> "RewardServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.transport.close()

    def score(self, items: Iterable[Item], *, rollouts: bool | None = None) -> Iterator[Score]:
        """A score for each item, in order; `BATCH` items are sent at a time.

        An item is {"messages": [...], "text": "..."}, {"prompt": "...", "text": "..."} or {"messages": [...]} whose
        last message is the answer. `rollouts` says that a policy in training wrote them, so that some may come back
        as pairs for people. `version` names the version that scored last.
        """
        for batch in batches(items):
            body: dict[str, Any] = {"items": batch}
            if rollouts is not None:
                body["rollouts"] = rollouts
            said = read_json(self.transport.send("POST", "/v1/score", json=body))
            scores = said.get("scores") if isinstance(said, dict) else None
            if not isinstance(scores, list) or len(scores) != len(batch):
                raise CaliperError(
                    "No reward server",
                    detail=f"{self.transport.shown} answers, but not as a reward server does.",
                )
            self.version = said["version"]
            yield from scores


def batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """At most `BATCH` items and about `LETTERS` letters at a time."""
    batch: list[Item] = []
    letters = 0
    for item in items:
        more = len(str(item.get("text", ""))) + len(str(item.get("messages", item.get("prompt"))))
        if batch and (len(batch) == BATCH or letters + more > LETTERS):
            yield batch
            batch, letters = [], 0
        batch.append(item)
        letters += more
    if batch:
        yield batch


def messages_of(prompt: str | Sequence[Any]) -> list[Message]:
    """A prompt as TRL hands it: a plain one is what a user says."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    turns = cast("Sequence[dict[str, Any]]", prompt)
    return [cast("Message", {**turn, "content": _text(turn)}) for turn in turns]


def caliper_reward(
    url: str,
    token: str | None = None,
    *,
    prompts_as: Callable[[Any], list[Message]] = messages_of,
    http: httpx.BaseTransport | None = None,
) -> Callable[..., list[float]]:
    """A reward function for `reward_funcs` of TRL's GRPOTrainer, RLOOTrainer and the like.

        trainer = GRPOTrainer(model, reward_funcs=caliper_reward("http://127.0.0.1:8100"), ...)

    Prompts and completions may be conversational or plain. `prompts_as` makes messages of a prompt; give one of your
    own where plain prompts hold a template's marks. The reward is the version's score, whose scale is the version's
    own; advantages in a group don't depend on it. A server that is busy or restarts is waited for.
    """
    server = RewardServer(url, token, tries=PATIENT, http=http)

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
        items = [
            _item(prompts_as(prompt), completion)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        return [float(row["score"]) for row in server.score(items, rollouts=True)]

    # What TRL's logs call it.
    reward.__name__ = "caliper_reward"
    return reward


def _item(messages: list[Message], completion: str | Sequence[Any]) -> Item:
    """A plain completion is the answer. Of a conversational one the last message of the assistant is; what came before
    belongs to the conversation (tools that were called). One that ends with a tool's word has no answer yet.
    """
    if isinstance(completion, str):
        return {"messages": messages, "text": completion}
    turns = [*messages, *messages_of(completion)]
    if len(completion) and turns[-1]["role"] == "assistant":
        return {"messages": turns}
    return {"messages": turns, "text": ""}


def _text(message: Any) -> str | None:
    """What a message says. Parts that are no text can't be scored, and are refused."""
    content = message.get("content")
    if content is None:
        return None if message.get("tool_calls") else ""
    if isinstance(content, str):
        return content
    parts = [part.get("text") for part in content]
    if any(part is None for part in parts):
        raise ValueError("A message has a part that is no text, and Caliper scores texts only. Leave it out.")
    return "".join(cast("list[str]", parts))
