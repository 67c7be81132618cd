"""What may be imported from where: by import-linter's contracts, and by looking at fresh interpreters."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

WALK = """
import importlib, json, pkgutil, sys
package = importlib.import_module(sys.argv[1])
names = [found.name for found in pkgutil.walk_packages(package.__path__, sys.argv[1] + ".")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(json.dumps({"walked": names, "loaded": sorted({name.partition(".")[0] for name in sys.modules})}))
"""
DJANGO = "import django, os; os.environ['DJANGO_SETTINGS_MODULE'] = 'webapp.settings'; django.setup()\n"


def walk(package: str, *, first: str = "", **environment: str) -> tuple[set[str], set[str]]:
    """Import every module of a package in a new interpreter: the modules, and all top-level names then loaded."""
    result = subprocess.run(
        [sys.executable, "-c", first + WALK, package],
        cwd=REPOSITORY,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout.splitlines()[-1])
    return set(answer["walked"]), set(answer["loaded"])


def test_the_web_half_loads_no_model_library() -> None:
    # With everything on, so that what is optional is walked as well.
    on = {"CALIPER_TOTP": "true", "CALIPER_OIDC_ISSUER": "https://sso.example.org"}
    walked, loaded = walk("webapp", first=DJANGO, **on)
    assert {"webapp.urls", "webapp.wsgi", "webapp.celery", "webapp.ratings.views"} <= walked
    models = {"torch", "transformers", "datasets", "pyarrow", "pandas", "sklearn", "accelerate", "peft"}
    models |= {"huggingface_hub", "fsspec"}
    assert not loaded & {"workers", *models}


def test_the_reward_models_load_no_web_framework() -> None:
    walked, loaded = walk("workers.rewards")
    assert {"workers.rewards.train", "workers.rewards.score"} <= walked
    assert "torch" in loaded
    # redis is loaded by torch's compiler, where it is installed; the linter sees that no module of ours does
    assert not loaded & {"django", "celery", "kombu", "webapp"}


@pytest.mark.slow
def test_imports_keep_their_direction() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run(
        [linter, "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "6 kept, 0 broken" in result.stdout
