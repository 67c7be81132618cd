"""Texts for pages and files that people take away: they tell no path of the server.

Errors of libraries, tracebacks and logs name files by their full paths. The last part says what it is about; the rest
tells strangers how the server is laid out, and which folders there are.
"""

import re

# A slash at the beginning of a word: not the middle of "and/or", a date or an address (https://...).
_PATH = re.compile(r"(?<![\w:/.~+\-\\])~?/(?:[^\s/'\"<>|:;,()\[\]{}]+/)+([^\s/'\"<>|:;,()\[\]{}]+)/?")


def without_paths(text: str) -> str:
    """Every full path of two parts and more as "…/" and its last part."""
    return _PATH.sub(r"…/\1", text)
