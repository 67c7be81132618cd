"""Ask an endpoint which response of each pair is better, in both orders: `python -m workers.rewards.annotate JOB_DIR`.

JOB_DIR/ask.json: {"endpoint", "guidelines", "bad_max", "normal_max", "seed", "cost_limit", "token_limit"}.
JOB_DIR/pairs.jsonl, a line a pair: {"pair", "a", "b"}, both rows as in a snapshot's responses.parquet. Appends to
JOB_DIR/answers.jsonl, a line an order: {"pair", "order": "ab" | "ba", "scores": [of a, of b] | null, "reason", "text",
"tokens_in", "tokens_out"}; writes progress.jsonl and usage.json. What is answered there is never asked again.
Exit status 0 asked, 2 refused (a limit that is spent is one), 143 stopped.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from .config import Refused
from .files import write_text
from .generative.endpoint import EndpointSampler
from .generative.endpoints import endpoint_named
from .generative.judge import parse
from .generative.sampling import Failed, Sampled, Usage
from .generative.template import JudgeTemplate
from .scale import Partition
from .training.progress import Progress, Stop, Stopped

STOPPED_EXIT = 143
AT_ONCE = 200  # pairs whose texts are in memory
MAX_NEW_TOKENS = 2048
KEPT_EVERY_SECONDS = 1.0
LONGEST_TEXT = 100_000  # characters; an endpoint may answer more than it was asked for
ORDERS = ("ab", "ba")


def annotate(folder: Path, stop: Stop) -> None:
    """Ask what is not answered yet. A question that the endpoint fails on stays open. Raises Refused, Stopped."""
    ask = json.loads((folder / "ask.json").read_text(encoding="utf-8"))
    template = JudgeTemplate(ask["guidelines"], partition=Partition(ask["bad_max"], ask["normal_max"]))
    answers = folder / "answers.jsonl"
    answered, spent = _answered(answers)
    if (folder / "usage.json").exists():
        # Also counts what was paid for and not read; of a killed process it may lack the last second.
        kept_usage = Usage(**json.loads((folder / "usage.json").read_text(encoding="utf-8")))
        spent = dataclasses.replace(
            kept_usage,
            tokens_in=max(kept_usage.tokens_in, spent.tokens_in),
            tokens_out=max(kept_usage.tokens_out, spent.tokens_out),
        )
    sampler = EndpointSampler(
        endpoint_named(ask["endpoint"]),
        cost_limit=ask["cost_limit"],
        token_limit=ask["token_limit"],
        spent=spent,
        check=stop.check,
    )
    with (folder / "pairs.jsonl").open("rb") as file:
        total = sum(len(ORDERS) for _ in file)
    progress, done = Progress(folder / "progress.jsonl"), len(answered)
    progress.say("asking", done, total)
    pairs = _lines(folder / "pairs.jsonl")
    kept = time.monotonic()

    def keep_usage() -> None:
        nonlocal kept
        kept = time.monotonic()
        write_text(folder / "usage.json", json.dumps(dataclasses.asdict(sampler.usage)))

    try:
        with answers.open("a", encoding="utf-8") as out:
            while some := list(islice(pairs, AT_ONCE)):
                open_ = [
                    (row, order) for row in some for order in ORDERS if (row["pair"], order) not in answered
                ]

                def told(index: int, answer: Sampled | Failed, open_: list[Any] = open_) -> None:
                    nonlocal done
                    if isinstance(answer, Failed):
                        return
                    row, order = open_[index]
                    out.write(json.dumps(_answer(row["pair"], order, answer), ensure_ascii=False) + "\n")
                    out.flush()
                    done += 1
                    progress.say("asking", done, total)
                    if time.monotonic() - kept > KEPT_EVERY_SECONDS:
                        keep_usage()

                chats = [
                    template.told([row[side] for side in order]).chat(ask["seed"]) for row, order in open_
                ]
                sampler.sample(chats, temperature=0.0, max_new_tokens=MAX_NEW_TOKENS, progress=told)
    finally:
        keep_usage()


def _answer(pair: int, order: str, answer: Sampled) -> dict[str, Any]:
    parsed = parse(answer.text, 2, answer.finished)
    scores = parsed.scores if order == "ab" or parsed.scores is None else parsed.scores[::-1]
    # JSON may hold half a character, which neither a file nor a database takes.
    text = answer.text[:LONGEST_TEXT].encode("utf-8", "replace").decode()
    return {
        "pair": pair, "order": order, "scores": scores, "reason": parsed.reason, "text": text,
        "tokens_in": answer.tokens_in, "tokens_out": answer.tokens_out,
    }  # fmt: skip


def _answered(path: Path) -> tuple[set[tuple[int, str]], Usage]:
    """What is answered, and the tokens that it took; a line that a killed process left unfinished is cut off."""
    answered, tokens_in, tokens_out, whole = set(), 0, 0, 0
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                row = json.loads(line)
                answered.add((row["pair"], row["order"]))
                tokens_in, tokens_out = tokens_in + row["tokens_in"], tokens_out + row["tokens_out"]
                whole += len(line)
        with path.open("r+b") as file:
            file.truncate(whole)
    return answered, Usage(tokens_in=tokens_in, tokens_out=tokens_out)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def main(arguments: Sequence[str]) -> int:
    """The command; see the module's docstring for the exit status."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python -m workers.rewards.annotate JOB_DIR", file=sys.stderr)
        return 2
    try:
        annotate(Path(arguments[0]), Stop.listening())
    except Refused as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    except Stopped:
        return STOPPED_EXIT
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # not waiting for threads whose endpoint doesn't answer
