"""Short questions to the broker's Redis. A worker that reads its queue does not use this; everything else does.

A page must not hang when the broker hangs. So one call waits for TIMEOUT_SECONDS at most. After a call without an
answer, this process does not ask again for PAUSE_SECONDS: a page with several calls waits once, and so do eight
threads.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import redis
from django.conf import settings
from kombu.exceptions import OperationalError
from redis.backoff import NoBackoff
from redis.retry import Retry

TIMEOUT_SECONDS = 1.0
PAUSE_SECONDS = 5.0

_UNANSWERED = (redis.ConnectionError, redis.TimeoutError, OperationalError, OSError)

_silent_until: dict[str, float] = {}
"""Address -> until when it isn't asked, by the monotonic clock."""


class BrokerSilent(redis.ConnectionError):
    """The broker did not answer a moment ago, so it wasn't asked now."""


@contextmanager
def asked() -> Iterator[None]:
    """Around every call of the broker. Raises BrokerSilent during the pause after one that got no answer."""
    url = settings.REDIS_URL
    if time.monotonic() < _silent_until.get(url, 0.0):
        raise BrokerSilent("the broker (Redis) did not answer a moment ago")
    try:
        yield
    except _UNANSWERED:
        _silent_until[url] = time.monotonic() + PAUSE_SECONDS
        raise


def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        # The library's own would try three times more.
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )


_kept_client = lru_cache(maxsize=2)(_client)


@contextmanager
def redis_client() -> Iterator[redis.Redis]:
    """A client of the broker's Redis that gives up quickly: neither a worker nor a health check may hang."""
    with asked(), _client(settings.REDIS_URL) as client:
        yield client


@contextmanager
def redis_kept() -> Iterator[redis.Redis]:
    """The same with connections that stay open, for what every request asks."""
    with asked():
        yield _kept_client(settings.REDIS_URL)
