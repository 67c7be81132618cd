"""Which files of a data set belong to which config and split, as `datasets` reads its card and its file names.

Nothing is asked of anybody: the names are laid into an empty folder, and `datasets` looks there. A card may say
anything, so what in it would lead elsewhere (another host, another folder, a chain of file systems) is refused first.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from webapp.importing.addresses import AddressRefused
from webapp.importing.sources import ImportRefused, printable

CARD, SETTINGS = "README.md", ".huggingface.yaml"
ALL = "all"
MOST_SHOWN = 30
# Characters of YAML. The plain loader takes seconds for so many, and stops where it nests too deep; libyaml's doesn't.
MOST_SETTINGS = 256 * 1024

Configs = dict[str, dict[str, list[str]]]


def configs_of(paths: Sequence[str], texts: Mapping[str, str], folder: Path) -> Configs:
    """{config: {split: paths}} of data files, given the texts of the card and the settings file where there are some.

    Works in a new folder below `folder`. Raises ImportRefused.
    """
    from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns, sanitize_patterns

    with tempfile.TemporaryDirectory(dir=folder) as work:
        root = Path(work).resolve()
        _lay(root, paths)
        found: Configs = {}
        for name, settings in _declared(texts).items():
            base = root / settings["data_dir"] if settings.get("data_dir") else root
            try:
                given = settings.get("data_files")
                patterns = sanitize_patterns(given) if given is not None else get_data_patterns(str(base))
                files = DataFilesDict.from_patterns(
                    patterns, base_path=str(root if given is not None else base)
                )
            except (EmptyDatasetError, FileNotFoundError, NotADirectoryError):
                continue
            splits = {
                str(split): [
                    path for each in listed if (path := Path(each).relative_to(root).as_posix()) in paths
                ]
                for split, listed in files.items()
            }
            found[name] = {split: listed for split, listed in splits.items() if listed}
    return {name: splits for name, splits in found.items() if splits}


def _lay(root: Path, paths: Sequence[str]) -> None:
    """Empty files of these names."""
    for path in paths:
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or "\x00" in path or pure.as_posix() != path:
            raise ImportRefused(
                f"A file there has the name “{printable(path)[:100]}”, which leads elsewhere."
            )
        try:
            (root / pure).parent.mkdir(parents=True, exist_ok=True)
            (root / pure).touch()
        except (OSError, UnicodeError) as error:
            raise ImportRefused(
                f"The file “{printable(path)[:100]}” can't lie beside the others. Name a folder with fewer files."
            ) from error


def _declared(texts: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The configs that the card declares, each with data_files or data_dir; one without either if there are none."""
    import yaml

    declared: list[Any] = []
    for name in (CARD, SETTINGS):
        text = texts.get(name, "").replace("\r\n", "\n").removeprefix("\ufeff")
        if name == CARD:
            text = text[4:].partition("\n---")[0] if text.startswith("---\n") else ""
        if len(text) > MOST_SETTINGS:
            raise ImportRefused(f"The beginning of {name} is too long to be read. Name single files instead.")
        try:
            read = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ImportRefused(
                f"The beginning of {name} can't be read as YAML. Name single files instead."
            ) from error
        if isinstance(read, dict) and isinstance(read.get("configs"), list):
            declared = read["configs"]
    found = {}
    for config in declared:
        if isinstance(config, dict) and isinstance(config.get("config_name"), str):
            found[config["config_name"]] = _checked(config)
    return found or {"default": {}}


def _checked(config: dict[str, Any]) -> dict[str, Any]:
    """What says where the files are, if it says so in a known form and stays inside."""
    kept: dict[str, Any] = {}
    if isinstance(folder := config.get("data_dir"), str):
        kept["data_dir"] = _inside(folder)
    files = config.get("data_files")
    if isinstance(files, list) and all(isinstance(each, dict) for each in files):
        kept["data_files"] = {str(each.get("split", "train")): _patterns(each.get("path")) for each in files}
    elif files is not None:
        kept["data_files"] = _patterns(files)
    return kept


def _patterns(given: Any) -> list[str]:
    patterns = given if isinstance(given, list) else [given]
    if not all(isinstance(each, str) for each in patterns):
        raise ImportRefused(
            "README.md names its files in a form that is unknown here. Name single files instead."
        )
    return [_inside(each) for each in patterns]


def _inside(path: str) -> str:
    if (
        "://" in path
        or "::" in path
        or "\\" in path
        or path.startswith(("/", "~"))
        or ".." in path.split("/")
    ):
        raise ImportRefused(
            f"README.md names files that lie elsewhere (“{printable(path)[:100]}”). They aren't read."
        )
    return path


def chosen(configs: Configs, config: str, split: str) -> tuple[list[str], str, str]:
    """The paths of the config and split asked for, and what those are called. Raises AddressRefused with the choices.

    What is left empty is chosen where there is only one; the split “all” is all of them.
    """
    if not configs:
        raise ImportRefused("Its card names no file that is there. Name single files instead.")
    name = config or ("default" if "default" in configs else next(iter(configs)) if len(configs) == 1 else "")
    if name not in configs:
        problem = f"There is no config “{config}”." if config else "It has several configs."
        raise AddressRefused(f"{problem} Name one of: {_names(configs)}.", "config")
    splits = configs[name]
    if split == ALL and ALL not in splits:
        return list(dict.fromkeys(path for paths in splits.values() for path in paths)), name, ALL
    of = split or (next(iter(splits)) if len(splits) == 1 else "")
    if of not in splits:
        problem = f"There is no split “{split}”." if split else "It has several splits."
        raise AddressRefused(f"{problem} Name one of: {_names(splits)}; or {ALL}.", "split")
    return splits[of], name, of


def _names(choices: Mapping[str, Any]) -> str:
    shown = [printable(name) for name in list(choices)[:MOST_SHOWN]]
    return ", ".join(shown) + (" …" if len(choices) > MOST_SHOWN else "")
