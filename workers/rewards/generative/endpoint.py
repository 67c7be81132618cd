"""A sampler that asks an OpenAI-compatible endpoint (vLLM, llama.cpp, a provider): POST {url}/chat/completions.

Whatever passes (rate limits, faults of the server, time-outs, answers that are none) is asked again, with bounds; what
does not (a key refused, a model unknown) ends the run with what to do. The loop over attempts is ours rather than
urllib3's Retry: a stop and a budget must end a wait, all threads keep away from a server that said when to come back,
and an answer without a text is asked again too.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import email.utils
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import requests
import urllib3

from ..config import Refused
from .endpoints import Endpoint
from .sampling import Chat, Failed, Report, Result, Sampled, Usage, nothing

ATTEMPTS = 6
MALFORMED = 2  # such an answer counts as so many attempts, as it may have to be paid for
PATIENCE_SECONDS = 120.0  # with rate limits, beyond the time of two answers
BACKOFF_SECONDS = 1.0  # doubles with each attempt
LONGEST_WAIT_SECONDS = 60.0  # whatever Retry-After says
CONNECT_SECONDS = 10.0
STOP_SECONDS = 3.0  # for answers on their way when the run ends
TICK_SECONDS = 0.5
LARGEST_ANSWER_BYTES = 8_000_000
BYTES_A_TOKEN = 4  # of a text whose tokens the endpoint doesn't count
# The run ends when more than half of so many last answers failed: an endpoint that is down must not use up a project.
JUDGED_BY = 32

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
_REMEDIES = {
    401: "The operator checks the key that the file of CALIPER_ENDPOINTS names.",
    402: "Top up the account, then press Resume.",
    403: "The operator checks what the key may do.",
    404: "The operator checks url (it ends in /v1) and model in the file of CALIPER_ENDPOINTS.",
}


class EndpointRefused(Refused):
    """The endpoint can't do what the run needs; the message says why and what to do."""


class BudgetSpent(Refused):
    """The next answer might cost more than the limit leaves. What was answered has been told to `progress`."""


@dataclasses.dataclass(frozen=True)
class Again:
    """A fault that may pass: why, how many attempts it counts as, for how many seconds the server wants no request."""

    reason: str
    weight: int = 1
    wait: float = 0.0


class EndpointSampler:
    """Samples texts from an endpoint, `concurrency` at a time.

    cost_limit (in the endpoint's currency) and token_limit (prompt and answer) bound what `spent`, of earlier goes,
    and this one use. A request is sent only if its longest answer still fits. Raises Refused for a cost limit where
    the operator gave no prices. `check` is called twice a second while answers are waited for, and may raise.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        cost_limit: float | None = None,
        token_limit: int | None = None,
        spent: Usage | None = None,
        check: Callable[[], None] = nothing,
    ) -> None:
        if cost_limit is not None and not endpoint.priced:
            raise Refused(
                f"cost_limit is {cost_limit:g}, but endpoint:{endpoint.name} has no prices. Set token_limit instead, "
                "or let the operator add input_price and output_price."
            )
        self.endpoint, self.check = endpoint, check
        self.cost_limit, self.token_limit = cost_limit, token_limit
        self.usage = dataclasses.replace(spent or Usage())  # of earlier goes too
        self._earlier = self.usage.requests - self.usage.retries
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._not_before = 0.0  # by time.monotonic: when the server wants to be asked again
        self._length_key, self._seeded = "max_tokens", True  # what this server knows
        self._local = threading.local()
        self._last: collections.deque[str] = collections.deque(
            maxlen=max(JUDGED_BY, 4 * endpoint.concurrency)
        )

    def sample(
        self,
        chats: Sequence[Chat],
        *,
        temperature: float,
        max_new_tokens: int,
        progress: Report,
    ) -> list[Result]:
        """A result for each chat, in their order; `progress` is told each as it comes.

        Raises EndpointRefused, BudgetSpent, and what `check` and `progress` raise; by then `progress` was told all that
        was answered.
        """
        began = time.monotonic()
        results: dict[int, Result] = {}
        running: dict[concurrent.futures.Future[Result], int] = {}
        waiting = collections.deque(range(len(chats)))
        self._ending.clear()

        def tell(futures: set[concurrent.futures.Future[Result]]) -> None:
            for future in sorted(futures, key=lambda future: future.exception() is not None):
                answer = future.result()  # raises, after those that don't
                index = running.pop(future)
                results[index] = answer
                self._last.append(answer.reason if isinstance(answer, Failed) else "")
                progress(index, answer)

        pool = concurrent.futures.ThreadPoolExecutor(self.endpoint.concurrency)
        try:
            while waiting or running:
                self.check()
                on_their_way = [chats[index] for index in running.values()]
                while waiting and len(running) < self.endpoint.concurrency:
                    chat = chats[waiting[0]]
                    if not self._fits([*on_their_way, chat], max_new_tokens):
                        break
                    future = pool.submit(self._answer, chat, temperature, max_new_tokens)
                    running[future] = waiting.popleft()
                    on_their_way.append(chat)
                if not running:
                    raise BudgetSpent(self._spent_words())
                done, _ = concurrent.futures.wait(
                    running, TICK_SECONDS, return_when=concurrent.futures.FIRST_COMPLETED
                )
                tell(done)
                self._check_failures(last=not (waiting or running))
        except BaseException:
            self._ending.set()
            done, _ = concurrent.futures.wait(running, STOP_SECONDS)
            for future in done:
                with contextlib.suppress(
                    Exception
                ):  # it may raise at each: there is one error to raise already
                    tell({future})
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            self._use(seconds=time.monotonic() - began)
        return [results[index] for index in range(len(chats))]

    def _fits(self, chats: list[Chat], max_new_tokens: int) -> bool:
        """Whether the longest answers to all of these are within the limits."""
        tokens_in = sum(_prompt_tokens(chat) for chat in chats)
        tokens_out = len(chats) * max_new_tokens
        used = self.usage
        tokens = used.tokens_in + used.tokens_out + tokens_in + tokens_out
        if self.token_limit is not None and tokens > self.token_limit:
            return False
        cost = self.endpoint.cost(tokens_in, tokens_out)
        return self.cost_limit is None or (used.cost or 0) + (cost or 0) <= self.cost_limit

    def _spent_words(self) -> str:
        used = self.usage
        spent = f"{used.tokens_in + used.tokens_out:,} tokens"
        if used.cost is not None:
            spent += f" for {used.cost:.4g} {self.endpoint.currency}"
        limits = [] if self.token_limit is None else [f"token_limit {self.token_limit:,}"]
        if self.cost_limit is not None:
            limits.append(f"cost_limit {self.cost_limit:g} {self.endpoint.currency}")
        return (
            f"The budget is spent ({' and '.join(limits)}): {spent} were used, and the longest next answer would not "
            "fit. Raise the limit, then press Resume: what was answered is kept."
        )

    def _check_failures(self, *, last: bool) -> None:
        """Raise EndpointRefused when most of the last answers failed, or of all, those of earlier goes included."""
        reasons = [reason for reason in self._last if reason]
        full = len(self._last) == self._last.maxlen
        if (full or last) and 2 * len(reasons) > len(self._last) + (0 if full else self._earlier):
            common, count = collections.Counter(reasons).most_common(1)[0]
            raise EndpointRefused(
                f"endpoint:{self.endpoint.name} failed on {len(reasons)} of the last {len(self._last)} texts, mostly "
                f"({count}): {common}. Resume goes on once it answers."
            )

    # From here on in the pool's threads.

    def _answer(self, chat: Chat, temperature: float, max_new_tokens: int) -> Result:
        """One chat's answer after as many attempts as it takes. Raises EndpointRefused for what asking can't mend."""
        until = time.monotonic() + 2 * self.endpoint.timeout + PATIENCE_SECONDS
        asked, used, pause = 0, 0, 0.0
        while True:
            if self._ending.wait(max(pause, self._not_before - time.monotonic())):
                return Failed("the run ended before it was answered")
            found = self._attempt(chat, temperature, max_new_tokens)
            if not isinstance(found, Again):
                return found
            back_off = BACKOFF_SECONDS * 2**asked * random.uniform(0.5, 1.5)
            pause = min(LONGEST_WAIT_SECONDS, max(found.wait, back_off))
            asked, used = asked + 1, used + found.weight
            if used >= ATTEMPTS or time.monotonic() + pause > until:
                return Failed(found.reason)
            self._use(retries=1)

    def _attempt(self, chat: Chat, temperature: float, max_new_tokens: int) -> Result | Again:
        try:
            status, headers, body = self._post(chat, temperature, max_new_tokens)
        except (requests.Timeout, urllib3.exceptions.TimeoutError):
            return Again(f"no answer within {self.endpoint.timeout:g} s")
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            # their own words hold the address
            return Again(f"no connection ({type(error).__name__})")
        if status == 200:
            return self._read(body, chat)
        said = self._said(body)
        reason = f"status {status}{said}"
        if status in _REMEDIES or "insufficient_quota" in body:
            remedy = _REMEDIES.get(status, _REMEDIES[402])
            raise EndpointRefused(f"endpoint:{self.endpoint.name} refuses: {reason}. {remedy}")
        if 300 <= status < 400:
            raise EndpointRefused(
                f"endpoint:{self.endpoint.name} sends us elsewhere (status {status}), where the key must not go. "
                "The operator names the last address in the file of CALIPER_ENDPOINTS."
            )
        if status in (400, 422) and self._adapted(said):
            return Again(reason, weight=0)
        if status not in _PASSING:
            return Failed(reason)
        wait = min(LONGEST_WAIT_SECONDS, _retry_after(headers.get("Retry-After", "")))
        if wait and status in (429, 503):
            self._not_before = max(self._not_before, time.monotonic() + wait)
        return Again(reason, weight=0 if status == 429 else 1, wait=wait)

    def _post(self, chat: Chat, temperature: float, max_new_tokens: int) -> tuple[int, Any, str]:
        """Status, headers and body. Raises requests' exceptions."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        content: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": [dict(message) for message in chat.messages],
            "temperature": temperature,
            self._length_key: max_new_tokens,
        }
        if self._seeded:
            content["seed"] = chat.seed % 2**31
        self._use(requests=1)
        deadline = time.monotonic() + self.endpoint.timeout
        with self._local.session.post(
            f"{self.endpoint.url}/chat/completions",
            json=content,
            auth=self._signed,
            timeout=(CONNECT_SECONDS, self.endpoint.timeout),
            allow_redirects=False,
            stream=True,
        ) as answer:
            parts, size = [], 0
            # A server that drips bytes keeps within requests' time-out for ever.
            while part := answer.raw.read1(65_536, decode_content=True):
                parts.append(part)
                size += len(part)
                if time.monotonic() > deadline:
                    raise requests.Timeout
                if size > LARGEST_ANSWER_BYTES:
                    raise requests.exceptions.ContentDecodingError
            return answer.status_code, answer.headers, b"".join(parts).decode("utf-8", errors="replace")

    def _signed(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Also without a key: requests would else look for one in ~/.netrc."""
        if self.endpoint.key:
            request.headers["Authorization"] = f"Bearer {self.endpoint.key}"
        return request

    def _read(self, body: str, chat: Chat) -> Result | Again:
        """The text of a completion; why there is none, as Failed where asking again won't help."""
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            page = " but a page" if body.lstrip()[:1] == "<" else ""
            return Again(f"the answer is no JSON{page}", MALFORMED)
        choices = answer.get("choices") if isinstance(answer, dict) else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(choice, dict) or not isinstance(message, dict):
            self._count(answer, chat, "")
            return Again(f"the answer has no choices{self._said(body)}", MALFORMED)
        text, finish = message.get("content"), choice.get("finish_reason")
        tokens_in, tokens_out = self._count(answer, chat, text if isinstance(text, str) else "")
        if finish == "content_filter":
            return Failed("the endpoint's content filter took the answer away")
        if text is None and finish == "length":
            text = ""  # a reasoning model that was still thinking
        if not isinstance(text, str):
            return Again("the answer has no text", MALFORMED)
        return Sampled(
            text=_without_thoughts(_whole(text)),
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            finished=finish != "length",
        )

    def _count(self, answer: Any, chat: Chat, text: str) -> tuple[int, int]:
        """Add an answer's tokens to the usage: the server's count, else about as many as the characters say."""
        usage = answer.get("usage") if isinstance(answer, dict) else None
        counts = [
            usage.get(key) if isinstance(usage, dict) else None
            for key in ("prompt_tokens", "completion_tokens")
        ]
        guesses = _prompt_tokens(chat), _about_tokens(text)
        tokens_in, tokens_out = (
            count if type(count) is int and 0 <= count < 1e9 else guess
            for count, guess in zip(counts, guesses, strict=True)
        )
        self._use(tokens_in=tokens_in, tokens_out=tokens_out)
        return tokens_in, tokens_out

    def _use(self, **more: float) -> None:
        with self._lock:
            for name, count in more.items():
                setattr(self.usage, name, getattr(self.usage, name) + count)
            self.usage.cost = self.endpoint.cost(self.usage.tokens_in, self.usage.tokens_out)

    def _said(self, body: str) -> str:
        """The server's own words on a fault, short and without the key, which some repeat; empty if it has none."""
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            return ""
        for key in ("error", "message", "detail"):
            if isinstance(found, dict) and key in found:
                found = found[key]
        if not isinstance(found, str):
            return ""
        if self.endpoint.key:
            found = found.replace(self.endpoint.key, "(the key)")
        return f": {' '.join(_whole(found).split())[:200].rstrip('.')}"

    def _adapted(self, said: str) -> bool:
        """Whether a parameter that this server doesn't know is now left out, or named as it wants it."""
        if "max_completion_tokens" in said and self._length_key == "max_tokens":
            self._length_key = "max_completion_tokens"
            return True
        if "seed" in said and self._seeded:
            self._seeded = False
            return True
        return False


def _about_tokens(*texts: str) -> int:
    return -(-sum(len(text.encode("utf-8", "replace")) for text in texts) // BYTES_A_TOKEN)


def _prompt_tokens(chat: Chat) -> int:
    return _about_tokens(*(message["content"] for message in chat.messages))


def _whole(text: str) -> str:
    """A text with a question mark for each half of a character, which JSON can hold and no file."""
    return text.encode("utf-8", "replace").decode()


def _without_thoughts(text: str) -> str:
    """What follows the thoughts of a reasoning model whose server leaves them in; empty if it never ended them.

    Some chat templates open <think> in the prompt, so that the text has its end alone.
    """
    before, end, after = text.partition("</think>")
    opened = before.lstrip().startswith("<think>")
    if end and (opened or "<think>" not in before):
        return after.lstrip()
    return "" if opened else text


def _retry_after(said: str) -> float:
    """Seconds of a Retry-After, which is a number or a date; 0 if it is neither."""
    try:
        return max(0.0, float(said)) if said else 0.0
    except ValueError:
        pass
    try:
        return max(0.0, (email.utils.parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
