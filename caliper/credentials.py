"""Which Caliper, and with which token: from the environment, or from the file that `caliper login` wrote."""

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


class CredentialsError(Exception):
    """The file of credentials can't be used; the message says what to do."""


def path() -> Path:
    """~/.config/caliper/credentials.json, or below XDG_CONFIG_HOME."""
    root = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(root) / "caliper" / "credentials.json"


def found(url: str | None = None) -> tuple[str | None, str | None]:
    """The address and the token. CALIPER_URL and CALIPER_TOKEN win over the file; `url` wins over CALIPER_URL."""
    kept = _read()
    url = url or os.environ.get("CALIPER_URL") or kept["default"]
    token = os.environ.get("CALIPER_TOKEN") or (kept["tokens"].get(_plain(url)) if url else None)
    return url, token


def keep(url: str, token: str) -> Path:
    """Store a token for an address, which becomes the one that commands use."""
    kept = _read()
    kept["tokens"][_plain(url)] = token
    kept["default"] = _plain(url)
    return _write(kept)


def forget(url: str) -> bool:
    """Whether a token was there to be forgotten."""
    kept = _read()
    if kept["tokens"].pop(_plain(url), None) is None:
        return False
    if kept["default"] == _plain(url):
        kept["default"] = next(iter(kept["tokens"]), None)
    _write(kept)
    return True


def _plain(url: str) -> str:
    return url.rstrip("/")


def _read() -> dict[str, Any]:
    file = path()
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return {"default": kept["default"], "tokens": dict(kept["tokens"])}
    except FileNotFoundError:
        return {"default": None, "tokens": {}}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CredentialsError(
            f"{file} can't be read ({error}). Mend it, or delete it and log in again."
        ) from error


def _write(kept: dict[str, Any]) -> Path:
    """Readable by its owner alone from its first byte; whole or not at all."""
    file = path()
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=file.parent)  # 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as beside:
                json.dump(kept, beside, indent=1)
            Path(name).replace(file)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise CredentialsError(f"{file} can't be written: {error.strerror}.") from error
    return file
