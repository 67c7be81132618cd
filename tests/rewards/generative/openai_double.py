"""A small server that speaks POST /v1/chat/completions and judges: the longer response is better, more or less.

It is real HTTP on a port of this machine, and can be told to fail in the ways in which endpoints do (`Double.plan`).
"""

import json
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KEY = "sk-double-0123456789abcdef"


class Double:
    """`with Double() as double`: double.url is its address; `plan` holds what the next requests get in place of an
    answer, a word of FAULTS each ("" for an answer); `always` is for all requests once the plan is used up.
    """

    def __init__(self, *, key: str = KEY, model: str = "judge-1", delay: float = 0.0) -> None:
        self.key, self.model, self.delay = key, model, delay
        self.plan: deque[str] = deque()
        self.always = ""
        self.seen: list[dict[str, Any]] = []  # the bodies of all requests
        self.at: list[float] = []  # when they came, by time.monotonic
        self.at_once = self.most_at_once = 0
        self.released = threading.Event()  # ends what hangs
        self.lock = threading.Lock()

    def __enter__(self) -> "Double":
        double = self

        class Handler(_Handler):
            told = double

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        return self

    def __exit__(self, *error: object) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def toml(self, path: Path, name: str = "local", **more: Any) -> Path:
        """An endpoints file with this server in it, its key in a file beside it."""
        key_file = path.with_name("endpoint-key")
        key_file.write_text(f"{self.key}\n")
        values = {"url": self.url, "model": self.model, "key_file": str(key_file)} | more
        lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        path.write_text("\n".join([f"[{name}]", *lines, ""]))
        return path


class _Handler(BaseHTTPRequestHandler):
    told: Double
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        double = self.told
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with double.lock:
            double.seen.append(asked)
            double.at.append(time.monotonic())
            double.at_once += 1
            double.most_at_once = max(double.most_at_once, double.at_once)
            fault = double.plan.popleft() if double.plan else double.always
        try:
            time.sleep(double.delay)
            if self.path != "/v1/chat/completions" or asked["model"] != double.model:
                fault = fault or "404"
            if double.key and self.headers.get("Authorization") != f"Bearer {double.key}":
                fault = fault or "401"
            FAULTS[fault](self, asked)
        except (BrokenPipeError, ConnectionResetError):
            pass  # who asked has gone
        finally:
            with double.lock:
                double.at_once -= 1

    def send(self, status: int, body: str, **headers: str) -> None:
        content = body.encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            pass  # a client that was killed

    def log_message(self, format: str, *args: Any) -> None:
        pass


def completion(
    text: str | None, *, finish: str = "stop", usage: bool = True, prompt: str = "", **more: Any
) -> str:
    """The body of an answer. Four characters are a token here."""
    answer: dict[str, Any] = {
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text} | more, "finish_reason": finish}
        ],
    }
    if usage:
        answer["usage"] = {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(text or "") // 4}
    return json.dumps(answer)


def prompt_of(asked: dict[str, Any]) -> str:
    return "\n".join(message["content"] for message in asked["messages"])


def responses_in(prompt: str) -> list[str]:
    """The responses between their markers (workers/rewards/generative/template.py)."""
    found = re.findall(
        r"^\[response (\d) (\w+)\]\n(.*?)\n\[end of response \1 \2\]$", prompt, re.DOTALL | re.MULTILINE
    )
    return [text for _, _, text in found]


def judged(asked: dict[str, Any]) -> str:
    """The judge's text: scores from 2 to 8 by length, one more or less by the seed."""
    lengths = [len(text) for text in responses_in(prompt_of(asked))]
    drawn = random.Random(asked.get("seed", 0))
    low, high = min(lengths, default=0), max(lengths, default=1)
    scores = [
        max(1, min(9, round(2 + 6 * (length - low) / max(1, high - low)) + drawn.choice((-1, 0, 0, 1))))
        for length in lengths
    ]
    said = "\n".join(
        f"### Critique of Response {place}\nIt has {length} characters.\n"
        for place, length in enumerate(lengths, 1)
    )
    boxed = ", ".join(map(str, scores))
    return f"### Principles\n1. Length (weight 100 %): the longer, the better.\n\n{said}\n\\boxed{{{boxed}}}"


def _answered(handler: _Handler, asked: dict[str, Any]) -> None:
    handler.send(200, completion(judged(asked), prompt=prompt_of(asked)))


def _error(status: int, message: str, **headers: str) -> Callable[[_Handler, dict[str, Any]], None]:
    body = json.dumps({"error": {"message": message, "type": "invalid_request_error"}})
    return lambda handler, asked: handler.send(status, body, **headers)


def _body(body: str, status: int = 200) -> Callable[[_Handler, dict[str, Any]], None]:
    return lambda handler, asked: handler.send(status, body)


def _hang(handler: _Handler, asked: dict[str, Any]) -> None:
    handler.told.released.wait(60)


def _drip(handler: _Handler, asked: dict[str, Any]) -> None:
    """A byte now and then keeps a connection alive without ever answering."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not handler.told.released.wait(0.05):
        handler.wfile.write(b" ")


def _close(handler: _Handler, asked: dict[str, Any]) -> None:
    handler.close_connection = True


def _half(handler: _Handler, asked: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


def _cut(handler: _Handler, asked: dict[str, Any]) -> None:
    handler.send(200, completion(judged(asked)[:40], finish="length", prompt=prompt_of(asked)))


def _thinking(handler: _Handler, asked: dict[str, Any]) -> None:
    handler.send(
        200, completion(f"<think>Is it \\boxed{{1}}?</think>\n{judged(asked)}", prompt=prompt_of(asked))
    )


def _half_character(handler: _Handler, asked: dict[str, Any]) -> None:
    handler.send(200, completion(judged(asked) + "\ud83d", prompt=prompt_of(asked)))


def _reasoning(handler: _Handler, asked: dict[str, Any]) -> None:
    handler.send(200, completion(judged(asked), prompt=prompt_of(asked), reasoning_content="Hm."))


def _no_usage(handler: _Handler, asked: dict[str, Any]) -> None:
    handler.send(200, completion(judged(asked), usage=False))


def _unseeded(handler: _Handler, asked: dict[str, Any]) -> None:
    """A server that knows neither seed nor max_tokens."""
    if "seed" in asked:
        _error(400, "Unknown parameter: 'seed'.")(handler, asked)
    elif "max_tokens" in asked:
        _error(400, "Unsupported parameter: use 'max_completion_tokens' instead.")(handler, asked)
    else:
        _answered(handler, asked)


FAULTS: dict[str, Callable[[_Handler, dict[str, Any]], None]] = {
    "": _answered,
    "401": _error(401, f"Incorrect API key provided: {KEY}."),
    "402": _error(402, "Insufficient balance"),
    "404": _error(404, "The model does not exist"),
    "429": _error(429, "Rate limit reached", Retry_After="0.3"),
    "quota": _body(
        json.dumps({"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}), 429
    ),
    "500": _body("Internal Server Error", 500),
    "502": _body("<html>Bad gateway</html>", 502),
    "400": _error(400, "This model's maximum context length is 4096 tokens"),
    "elsewhere": lambda handler, asked: handler.send(
        307, "", Location="http://127.0.0.1:9/v1/chat/completions"
    ),
    "hang": _hang,
    "drip": _drip,
    "close": _close,
    "half": _half,
    "html": _body("<!doctype html><title>Sign in</title>"),
    "json": _body('{"choices": [{"message": '),
    "deep": _body("[" * 100_000),
    "none": _body('{"object": "chat.completion", "choices": []}'),
    "null": _body(completion(None)),
    "filtered": _body(completion(None, finish="content_filter")),
    "still thinking": _body(completion(None, finish="length", reasoning_content="Hm.")),
    "list": _body("[1, 2]"),
    "cut": _cut,
    "thinking": _thinking,
    "reasoning": _reasoning,
    "half a character": _half_character,
    "no usage": _no_usage,
    "unseeded": _unseeded,
}
