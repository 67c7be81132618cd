"""How imports treat good files that were damaged at random.

    python -m benchmarks.import_fuzz --mutants 100000 --seed 1

A mutant is a good row or file with something odd put in. Each is imported as a dry run into a database of its own.
Results are counted. A mutant that neither imports nor is refused with a message is a failure: it is printed, and its
file is kept.
"""

import argparse
import os
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mutants", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--files", type=float, default=0.1, help="the share of damaged files; the others are rows"
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="caliper-fuzz-"))
    os.environ |= {
        "CALIPER_DATA_DIR": str(folder), "DATABASE_URL": f"sqlite:///{folder}/db.sqlite3",
        "DJANGO_SETTINGS_MODULE": "webapp.settings",
    }  # fmt: skip
    import django

    django.setup()
    from django.core.management import call_command

    from tests.importing.fuzz.mutants import Fuzz
    from webapp.corpus.models import Project

    call_command("migrate", verbosity=0)
    project = Project.objects.create(slug="fuzz", name="Fuzz")
    found = Fuzz(project, folder, ROOT.parent / "shared", options.seed).run(
        options.mutants, files=options.files
    )
    print(
        f"{found.mutants:,} mutants in {found.imports:,} imports, {found.seconds:.0f} s: {found.rows:,} rows read, "
        f"{found.left_out:,} left out, {found.refused:,} files refused, {len(found.failures)} failures"
    )
    for failure in dict.fromkeys(found.failures):
        print(failure)
    return 1 if found.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
