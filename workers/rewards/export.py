"""Write a trained model as plain transformers load it: `python -m workers.rewards.export MODEL_DIR OUT_DIR`.

artifacts/export.py says what each kind of model becomes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from .artifacts.export import ExportError, export_model
from .artifacts.save import ArtifactError


def main(arguments: Sequence[str]) -> int:
    """The command; prints the report as JSON.  Exit status 0 exported, 2 refused (one line on standard error)."""
    parser = argparse.ArgumentParser(prog="python -m workers.rewards.export", description=__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument(
        "--metrics", type=Path, help="metrics.json for the model card (default: the one beside MODEL_DIR)"
    )
    options = parser.parse_args(arguments)
    path = options.metrics or options.model.resolve().parent / "metrics.json"
    metrics = None
    try:
        if options.metrics or path.is_file():
            metrics = json.loads(path.read_text(encoding="utf-8"))
        report = export_model(options.model, options.out, metrics)
    except (ArtifactError, ExportError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"refused: {' '.join(str(error).split())[:200]}", file=sys.stderr)
        return 2
    print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
