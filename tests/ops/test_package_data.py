"""A wheel holds what the code reads beside itself."""

import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_reward_models_data_files_are_in_the_wheel() -> None:
    rewards = REPOSITORY / "workers" / "rewards"
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    packaged = {
        path for pattern in settings["package-data"]["workers.rewards"] for path in rewards.glob(pattern)
    }
    there = {path for path in rewards.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert rewards / "training" / "hardening.json" in there
    assert there <= packaged
