"""A trained model to take away, with its model card: `python -m workers.rewards.export MODEL_DIR OUT_DIR`.

`--format caliper` packs the model as it is saved; `--format transformers` (default) makes a folder that plain
transformers load.

artifacts/export.py says what each kind of model becomes, generative/export.py what a grm does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from .artifacts.export import ExportError, export_model, pack_model
from .artifacts.save import ArtifactError
from .generative.export import export_judge
from .generative.saved import is_judge


def main(arguments: Sequence[str]) -> int:
    """The command; prints export_model's report as JSON. Exit status 2: refused (one line on standard error)."""
    parser = argparse.ArgumentParser(prog="python -m workers.rewards.export", description=__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument("--format", choices=("transformers", "caliper"), default="transformers")
    parser.add_argument("--title", help="of the model card (default: the method)")
    parser.add_argument("--made", help="for the model card: when, and by which run")
    parser.add_argument(
        "--metrics", type=Path, help="metrics.json for the model card (default: the one beside MODEL_DIR)"
    )
    options = parser.parse_args(arguments)
    path = options.metrics or options.model.resolve().parent / "metrics.json"
    metrics = None
    try:
        if options.metrics or path.is_file():
            metrics = json.loads(path.read_text(encoding="utf-8"))
        words = {"title": options.title, "made": options.made}
        if options.format == "caliper":
            pack_model(options.model, options.out, metrics, **words)
            return 0
        exported = export_judge if is_judge(options.model) else export_model
        report = exported(options.model, options.out, metrics, **words)
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
