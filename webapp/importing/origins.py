"""Where an import's files come from, if nobody uploaded them: what its row keeps of it, and how it is told.

`Import.origin` is {address, config, split, revision} as they were asked for, and once the files are there
{commit, found: {config, split}, files: [{path, name, bytes, sha256}]}.
"""

from pathlib import Path
from typing import Any

from webapp.corpus.models import Import, Project
from webapp.importing.addresses import HUB, AddressRefused, address_named
from webapp.importing.report import shorten
from webapp.importing.spool import OnProgress
from webapp.jobs import State, Stopped

MAX_NAME = 200


def origin_of(address: str, *, config: str = "", split: str = "", revision: str = "") -> dict[str, Any]:
    """What an import's row keeps from the beginning. Raises AddressRefused."""
    found = address_named(address, revision)
    for field, given in (("config", config), ("split", split)):
        if len(given) > MAX_NAME or not given.isprintable():
            raise AddressRefused(f"Write at most {MAX_NAME} plain characters.", field)
    return {
        "address": found.text,
        "config": config.strip(),
        "split": split.strip(),
        "revision": found.revision,
    }


def origin_fetch(import_row: Import, folder: Path, progress: OnProgress) -> None:
    """Bring the files of a claimed import into its folder, unless they are there. Raises ImportRefused and Stopped."""
    origin = import_row.origin
    if not origin or origin.get("files"):
        return
    folder.mkdir(parents=True, exist_ok=True)
    if not import_row.beat(
        phase="fetching", step=0, total=0, origin=origin_fetched(origin, folder, progress)
    ):
        raise Stopped("not ours")


def origin_fetched(origin: dict[str, Any], folder: Path, progress: OnProgress) -> dict[str, Any]:
    """Fetch what an origin names into the folder; the origin with what was found. The rules are asked again here."""
    from webapp.importing.fetching import fetch

    address = address_named(origin["address"], origin["revision"])
    progress("fetching", 0, 0)
    found = fetch(address, config=origin["config"], split=origin["split"], folder=folder, progress=progress)
    chosen = {name: found.pop(name) for name in ("config", "split")}
    return {**origin, **found, "found": chosen}


def origin_words(origin: dict[str, Any], *, public: bool = False) -> str:
    """An origin in a line: address, config, split, commit. Of stores a `public` text tells only the last part."""
    address = origin["address"]
    if public and not address.startswith(HUB):
        address = f"{address.partition('://')[0]}://…/{address.rpartition('/')[2]}"
    chosen = origin.get("found", origin)
    words = [address] + [f"{name} {chosen[name]}" for name in ("config", "split") if chosen[name]]
    if origin["revision"]:
        words.append(f"revision {origin['revision']}")
    if origin.get("commit"):
        words.append(f"commit {origin['commit']}")
    return ", ".join(words)


def origin_name(origin: dict[str, Any]) -> str:
    """The name of its import in lists: the address and what was asked for of it."""
    asked = "/".join(origin[name] for name in ("config", "split") if origin[name])
    return shorten(f"{origin['address']} {asked}".strip(), 255)


def origins_of(project: Project) -> list[str]:
    """Where what was imported into a project came from, for a data card; each once, the oldest first."""
    rows = project.imports.filter(state=State.DONE, dry_run=False, undone_at__isnull=True).exclude(origin={})
    found = rows.order_by("pk").values_list("origin", flat=True)
    return list(dict.fromkeys(origin_words(origin, public=True) for origin in found))
