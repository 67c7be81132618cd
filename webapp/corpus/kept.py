"""What was drawn lately stays in this process: several people see each text, and each text stands in several pairs."""

from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from threading import Lock
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """Results of a pure function, by its arguments; those not asked for longest go when all are over `limit` bytes."""

    def __init__(self, limit: int, size_of: Callable[[Value], int]) -> None:
        self._limit, self._size_of = limit, size_of
        self._values: OrderedDict[bytes, tuple[Value, int]] = OrderedDict()
        self._size = 0
        self._lock = Lock()

    def of(self, make: Callable[[], Value], *arguments: Any) -> Value:
        """What `make` returns for these arguments, which are texts and what JSON knows. Nobody changes it."""
        # A digest: the texts themselves may be long, and are hostile.
        key = sha256(repr(arguments).encode(errors="surrogatepass")).digest()
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key][0]
        value = make()
        size = self._size_of(value)
        with self._lock:
            if key not in self._values and size <= self._limit:
                self._values[key] = value, size
                self._size += size
            while self._size > self._limit:
                _, (_, gone) = self._values.popitem(last=False)
                self._size -= gone
        return value
