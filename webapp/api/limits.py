"""How often a token may ask: counted by minutes in the broker's Redis, for all web processes together.

While Redis is silent each process counts for itself: the limit then holds a process, and nobody is kept out.
"""

import time
from dataclasses import dataclass

import redis
from django.core.cache import caches

from webapp.broker import redis_kept

WINDOW_SECONDS = 60

FAILURES_PER_MINUTE = 60
"""So many unknown tokens of one address are answered one by one; more are told to wait."""


@dataclass(frozen=True)
class Rate:
    """What is left of a minute."""

    limit: int
    used: int
    reset: int
    """Seconds until the next minute begins."""

    @property
    def exceeded(self) -> bool:
        return self.used > self.limit

    @property
    def headers(self) -> dict[str, str]:
        left = max(0, self.limit - self.used)
        numbers = {"RateLimit-Limit": self.limit, "RateLimit-Remaining": left, "RateLimit-Reset": self.reset}
        return {name: str(number) for name, number in numbers.items()}


def rate_count(name: str, limit: int) -> Rate:
    """Count one more call of somebody in this minute."""
    minute, passed = divmod(int(time.time()), WINDOW_SECONDS)
    key = f"caliper:api:{name}:{minute}"
    try:
        used = _in_redis(key)
    except redis.RedisError:
        used = _in_process(key)
    return Rate(limit, used, WINDOW_SECONDS - passed)


def _in_redis(key: str) -> int:
    with redis_kept() as client:
        pipeline = client.pipeline(transaction=False)
        pipeline.incr(key)
        pipeline.expire(key, 2 * WINDOW_SECONDS)
        return int(pipeline.execute()[0])


def _in_process(key: str) -> int:
    cache = caches["local"]
    cache.add(key, 0, 2 * WINDOW_SECONDS)
    return int(cache.incr(key))
