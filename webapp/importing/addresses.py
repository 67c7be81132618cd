"""Which addresses an import may read, and how people write them: a hub's data set, or a file or folder of a store.

Only the operator says what can be reached. The hub's host is HF_ENDPOINT, whatever somebody types. A store's address
must lie below a prefix of CALIPER_STORES, so nobody can let the server call another host or read another file of it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from django.conf import settings

from webapp.importing.sources import ImportRefused

HUB = "hf://datasets/"
MAX_LENGTH = 500
# Schemes that are no store: other hosts would answer, by a redirect perhaps, and the hub has a switch of its own.
NO_STORES = ("http", "https", "hf")

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.ASCII)
_PART = r"[A-Za-z0-9_][\w.-]{0,95}"
_REPO = re.compile(rf"({_PART}/)?{_PART}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][\w./-]{0,99}", re.ASCII)


class AddressRefused(ImportRefused):
    """An address, or what belongs to it, can't be used; `field` is address, config, split or revision."""

    def __init__(self, message: str, field: str = "address") -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Address:
    """Where data lie. `text` is how it is kept and shown; `repo` is the id of a hub's data set, empty for stores."""

    text: str
    repo: str = ""
    revision: str = ""


def address_named(given: str, revision: str = "") -> Address:
    """The address that somebody typed, checked without asking anybody. Raises AddressRefused.

    A hub's data set is written hf://datasets/ORG/NAME (with @REVISION if wanted), ORG/NAME, or as its page's address.
    """
    text = given.strip()
    if not text:
        raise AddressRefused("There is no address. Write one, such as hf://datasets/ORG/NAME.")
    if len(text) > MAX_LENGTH or not text.isprintable():
        raise AddressRefused(f"Write an address of at most {MAX_LENGTH} plain characters, on one line.")
    scheme, _, rest = text.partition("://")
    if not rest or scheme == "hf" or text.startswith(f"{settings.HUB_ENDPOINT}/datasets/"):
        return _of_hub(text, revision.strip())
    if revision.strip():
        raise AddressRefused("Only data sets of the hub have revisions. Leave it empty.", "revision")
    return Address(store_address(text, settings.STORES, "CALIPER_STORES"))


def _of_hub(text: str, revision: str) -> Address:
    if not settings.HUB:
        raise AddressRefused(
            "This server doesn't use a hub. Upload the files, or ask its operator to set CALIPER_HUB=true."
        )
    name = text.removeprefix(f"{settings.HUB_ENDPOINT}/").removeprefix("hf://").removeprefix("datasets/")
    name, tree, branch = name.strip("/").partition("/tree/")
    repo, at, wanted = (name, tree, unquote(branch)) if tree else name.partition("@")
    if (
        (at and not wanted)
        or not _REPO.fullmatch(repo)
        or ".." in repo
        or ("/" not in repo and not text.startswith(HUB))
    ):
        raise AddressRefused(
            "That is no data set's address. Write hf://datasets/ORG/NAME or ORG/NAME, without a file behind it."
        )
    if at and revision and revision != wanted:
        raise AddressRefused("The address names another revision. Leave one of the two away.", "revision")
    return Address(f"{HUB}{repo}", repo, hub_revision(wanted if at else revision))


def hub_revision(given: str) -> str:
    """A branch, tag or commit as it may be asked for; empty is the newest. Raises AddressRefused."""
    if given and (not _REVISION.fullmatch(given) or ".." in given):
        raise AddressRefused(
            "That is no revision. Write a branch, a tag or a commit, or leave it empty.", "revision"
        )
    return given


def hub_repo(given: str) -> str:
    """The id ORG/NAME or NAME of something on the hub. Raises AddressRefused."""
    if not _REPO.fullmatch(given) or ".." in given or "--" in given or given.endswith((".git", ".", "-")):
        raise AddressRefused("That is no name on the hub. Write ORG/NAME: letters, digits, dots, dashes.")
    return given


def store_address(text: str, prefixes: Sequence[str], variable: str) -> str:
    """An address below one of the operator's prefixes, without a slash at its end. Raises AddressRefused."""
    scheme, _, rest = text.partition("://")
    # "::" would chain file systems, each with an address of its own.
    parts = rest.rstrip("/").split("/")
    named = parts[1:] if scheme == "file" else parts
    plain = _SCHEME.fullmatch(scheme) and scheme not in NO_STORES and "::" not in text and "\\" not in text
    if not plain or not all(named) or {".", ".."} & set(parts):
        raise AddressRefused(_elsewhere(variable, prefixes))
    clean = f"{scheme}://{'/'.join(parts)}"
    if not any(f"{clean}/".startswith(prefix) for prefix in map(_as_folder, prefixes)):
        raise AddressRefused(_elsewhere(variable, prefixes))
    if scheme == "file":
        local_path(clean, prefixes, variable)
    return clean


def local_path(address: str, prefixes: Sequence[str], variable: str) -> Path:
    """Where a file:// address lies, symlinks followed: still below a prefix, and never in the data folder."""
    path = Path(address.removeprefix("file://")).resolve()
    roots = [Path(each.removeprefix("file://")).resolve() for each in prefixes if each.startswith("file://")]
    if path.is_relative_to(settings.DATA_DIR.resolve()) or not any(map(path.is_relative_to, roots)):
        raise AddressRefused(_elsewhere(variable, prefixes))
    return path


def _as_folder(prefix: str) -> str:
    return prefix if prefix.endswith("/") else f"{prefix}/"


def _elsewhere(variable: str, prefixes: Sequence[str]) -> str:
    """The same words whether or not there is something at the address."""
    offered = f"Begin with one of {', '.join(prefixes)}" if prefixes else "It has none"
    return f"This server reaches no such address. {offered}, or ask its operator about {variable}."


def store_mistakes(prefixes: Sequence[str]) -> list[str]:
    """What is wrong with the operator's prefixes, each as a sentence."""
    found = []
    for prefix in prefixes:
        scheme, between, rest = prefix.partition("://")
        if not between or not _SCHEME.fullmatch(scheme) or "::" in prefix or ".." in rest.split("/"):
            found.append(f"{prefix} is no prefix of addresses: write s3://BUCKET/FOLDER/ or file:///FOLDER/.")
        elif scheme in NO_STORES:
            found.append(
                f"{prefix} is no store. Web addresses aren't read, and CALIPER_HUB turns the hub on."
            )
        elif urlsplit(prefix).password:
            found.append(f"{scheme}://… has a password in it. Give it by that store's own variables.")
    return found
