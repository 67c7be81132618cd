"""Which pairs are made from the responses of one prompt when a file names no pairs. Keys go in, pairs of keys come out.

The result depends on the keys, the pairs that exist and the seed, and on nothing else. So the same import makes the
same pairs, and a second import makes none.
"""

import hashlib
import itertools
import random
from collections.abc import Collection, Hashable, Iterator, Sequence
from typing import TypeVar

from webapp.corpus.models import Project

Key = TypeVar("Key", bound=Hashable)


def pairs_to_make(
    keys: Sequence[Key],
    *,
    lone: Collection[Key],
    there: int,
    pairing: str,
    limit: int,
    seed: str,
) -> list[tuple[Key, Key]]:
    """Pairs for the `lone` keys, with each other and with the rest of `keys`.

    `there` counts the pairs that the prompt has: “all” and “random” make at most `limit` with these together, a ring
    gives each response `limit` neighbours. `keys` are in the order in which the responses came.
    """
    if not lone or len(keys) < 2:
        return []
    alone = set(lone)
    # Not the built-in hash, which differs between processes.
    chance = random.Random(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big"))
    if pairing == Project.Pairing.RING:
        ring = (
            (key, keys[(place + step) % len(keys)])
            for place, key in enumerate(keys)
            for step in range(1, min(limit, len(keys) - 1) + 1)
        )
        return list(_once(pair for pair in ring if alone & set(pair)))
    room = limit - there
    if room <= 0:
        return []
    if pairing == Project.Pairing.RANDOM:
        return _drawn(keys, alone, room, chance)
    order = list(keys)
    chance.shuffle(order)
    found = _rounds(order) if len(alone) == len(order) else _once(_beside(order, alone))
    return list(itertools.islice(found, room))


def _drawn(keys: Sequence[Key], alone: set[Key], room: int, chance: random.Random) -> list[tuple[Key, Key]]:
    """Random pairs with a lone key, each as likely as any other. A few of very many are drawn without listing all."""
    rest = len(keys) - len(alone)
    possible = len(alone) * (len(alone) - 1) // 2 + len(alone) * rest
    if possible <= 4 * room:
        every = [pair for pair in itertools.combinations(keys, 2) if alone & set(pair)]
        return chance.sample(every, min(room, len(every)))
    drawn: dict[frozenset[Key], tuple[Key, Key]] = {}
    while len(drawn) < room:
        pair = chance.choice(keys), chance.choice(keys)
        if pair[0] != pair[1] and alone & set(pair):
            drawn.setdefault(frozenset(pair), pair)
    return list(drawn.values())


def _rounds(order: list[Key]) -> Iterator[tuple[Key, Key]]:
    """All pairs, in rounds in which each key meets one other: the first few of them bring in every key."""
    wheel: list[Key | None] = [*order, None] if len(order) % 2 else [*order]
    half = len(wheel) // 2
    for _ in range(len(wheel) - 1):
        for first, second in zip(wheel[:half], reversed(wheel[half:]), strict=True):
            if first is not None and second is not None:
                yield first, second
        wheel = [wheel[0], wheel[-1], *wheel[1:-1]]


def _beside(order: list[Key], alone: set[Key]) -> Iterator[tuple[Key, Key]]:
    """All pairs with a lone key, each lone key's first one first."""
    places = [place for place, key in enumerate(order) if key in alone]
    for step in range(1, len(order)):
        for place in places:
            yield order[place], order[(place + step) % len(order)]


def _once(pairs: Iterator[tuple[Key, Key]]) -> Iterator[tuple[Key, Key]]:
    seen: set[frozenset[Key]] = set()
    for pair in pairs:
        if frozenset(pair) not in seen:
            seen.add(frozenset(pair))
            yield pair
