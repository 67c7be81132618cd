"""A training of some seconds without a model: checkpoints each step, resumes, ends on SIGTERM as the real one does."""

import runpy
import sys
from pathlib import Path

FAKE = Path(__file__).resolve().parents[1] / "workers" / "fake_train.py"

if __name__ == "__main__":
    sys.argv = [str(FAKE), "slow", sys.argv[1]]
    runpy.run_path(str(FAKE), run_name="__main__")
