"""A reward server: `python -m workers.rewards.serve (MODEL_DIR | --project http://host:8000/p/SLUG) [--port 8100]`.

MODEL_DIR is served as it is. With --project the server keeps to what the project serves: a promoted version takes its
place without a pause. docs/reward-server.md describes the doors and the environment: CALIPER_TOKEN, CALIPER_DATA_DIR,
CALIPER_SERVE_TOKENS. SIGTERM: what waits is finished, within 30 s.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from .artifacts.save import ArtifactError
from .generative.saved import is_judge
from .models.embeddings import cache_folder
from .serving.batching import Batcher
from .serving.doors import Doors
from .serving.follow import Follower, client_of
from .serving.holder import Held, Holder
from .serving.metrics import Metrics
from .serving.reporting import Reporter

STOPPING_SECONDS = 30


class Unusable(Exception):
    """The server can't start so; the message has the remedy."""


def main(arguments: Sequence[str]) -> int:
    """The command. Exit status 0: stopped when asked; 2: refused (one line on standard error)."""
    parser = argparse.ArgumentParser(prog="python -m workers.rewards.serve", description=__doc__)
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument("model", type=Path, nargs="?", metavar="MODEL_DIR")
    whom.add_argument("--project", metavar="URL", help="the address of a project's page at Caliper")
    parser.add_argument(
        "--method", help="with --project: whose serving version (default: the first that serves)"
    )
    parser.add_argument("--port", type=int, default=8100, help="0: any free one (default 8100)")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (default 127.0.0.1)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would note every look
    signal.signal(signal.SIGTERM, _leave)
    try:
        tokens = tokens_for(options.host)
        if options.model is not None and is_judge(options.model):
            raise Unusable(
                f"{options.model} is a generative model, which writes critiques and takes too long for a server; serve "
                "bt, clf, oprm, rgft or haf, or score with workers.rewards.score"
            )
        if options.model is not None and options.method is not None:
            raise Unusable("--method goes with --project; a folder holds one model")
        token = secret("CALIPER_TOKEN")
        client = None if options.project is None else client_of(options.project, token)
        listening = listen(options.host, options.port)
    except (ArtifactError, Unusable, ValueError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    holder, metrics = Holder(), Metrics()
    if client is None:
        return serve(listening, holder, metrics, tokens, pinned(options.model, holder, metrics))
    data = os.environ.get("CALIPER_DATA_DIR")
    reporter = Reporter(client, metrics, server=f"{socket.gethostname()}:{listening.getsockname()[1]}")
    follower = Follower(
        client,
        holder,
        metrics,
        method=options.method,
        data=Path(data) if data else None,
        fetched=cache_folder() / "serving",
        ask_back=reporter.ask_back,
    )

    async def follow() -> None:
        async with client, asyncio.TaskGroup() as group:
            group.create_task(follower.run())
            group.create_task(reporter.run())

    return serve(listening, holder, metrics, tokens, follow, rollouts=reporter.add)


def serve(
    listening: socket.socket,
    holder: Holder,
    metrics: Metrics,
    tokens: Sequence[str],
    behind: Callable[[], Coroutine[Any, Any, None]],
    **doors: Any,
) -> int:
    """Serve until a signal; the exit status. `behind` runs meanwhile, and ends the server if it fails."""
    failure: list[str] = []

    async def watched() -> None:
        try:
            await behind()
        except Exception as error:  # without a model there is nothing to serve
            if not isinstance(error, ArtifactError):
                logging.getLogger(__name__).exception("the model can't be loaded")
            failure.append(str(error) or type(error).__name__)
            server.should_exit = True

    made = Doors(Batcher(holder, metrics), metrics, tokens=tokens, behind=watched, **doors)
    server = uvicorn.Server(
        uvicorn.Config(
            made.app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=STOPPING_SECONDS,
            timeout_keep_alive=75,
        )
    )
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"listening on http://{shown}:{port}", flush=True)
    server.run(sockets=[listening])
    if failure:
        print(f"refused: {failure[0]}", file=sys.stderr)
        return 2
    return 0


def pinned(folder: Path, holder: Holder, metrics: Metrics) -> Callable[[], Coroutine[Any, Any, None]]:
    """Loads the version of a folder, and never another."""

    async def load() -> None:
        held = await asyncio.to_thread(Held.load, folder)
        holder.current, holder.problem = held, ""
        metrics.serves(held.name, held.digest)
        print(f"serving {held.name} ({held.digest[:12]})", flush=True)

    return load


def tokens_for(host: str) -> list[str]:
    """CALIPER_SERVE_TOKENS. Raises Unusable where anybody could ask from another machine."""
    tokens = [token.strip() for token in secret("CALIPER_SERVE_TOKENS").split(",")]
    tokens = [token for token in tokens if token]
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not tokens and not loopback:
        raise Unusable(
            f"at {host} other machines could ask, and no token is set; set CALIPER_SERVE_TOKENS, or serve at 127.0.0.1"
        )
    return tokens


def secret(name: str) -> str:
    """A variable of the environment, or what stands in the file that NAME_FILE names. Raises Unusable."""
    path = os.environ.get(f"{name}_FILE")
    try:
        return Path(path).read_text(encoding="utf-8").strip() if path else os.environ.get(name, "").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"{name}_FILE={path} can't be read ({error})") from None


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises Unusable."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise Unusable(
            f"{host}:{port} can't be listened at ({error}); give another --port or --host"
        ) from None


def _leave(number: int, frame: object) -> None:
    """SIGTERM while nothing is served yet, and again after uvicorn has finished what waited."""
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
