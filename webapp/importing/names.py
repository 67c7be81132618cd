"""Names of files in an import's folder."""

import re
from collections.abc import Iterable

from webapp.importing.report import OWN_FILES


def safe_name(name: str, *, taken: Iterable[str] = ()) -> str:
    """A file name without folders and odd characters that is none of those taken; its endings are kept."""
    bare = re.sub(r"[^\w.-]+", "-", name.replace("\\", "/").rpartition("/")[2]).lstrip(".-")[-100:] or "file"
    unique, number = bare, 1
    while unique.lower() in {*(other.lower() for other in taken), *OWN_FILES}:
        number += 1
        unique = f"{number}-{bare}"
    return unique
