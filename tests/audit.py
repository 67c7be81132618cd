"""`make lint`'s last step: pip-audit over constraints.txt. A known vulnerability fails.

Without a network the step says so and is skipped. The first pin is asked about alone, so that this is found out by one
question and not by two hundred.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
OUT_OF_REACH = re.compile(r"connect|timed? ?out|resol|unreachable|proxy|ssl|50[234]", re.IGNORECASE)
SECONDS = 600


class NoAnswer(Exception):
    """pip-audit ended without a result; its last words."""


def audit(pins: list[str]) -> list[dict[str, Any]]:
    """What pip-audit says of each pin: name, version and vulns, or name and skip_reason. Raises NoAnswer."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(pins) + "\n")
        file.flush()
        words = ["pip-audit", "--requirement", file.name, "--no-deps", "--disable-pip"]
        words += ["--progress-spinner", "off", "--format", "json"]
        try:
            ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=SECONDS)
        except FileNotFoundError:
            raise NoAnswer("pip-audit is not installed: `make setup-dev`") from None
        except subprocess.TimeoutExpired:
            raise NoAnswer(f"timed out after {SECONDS} s") from None
    try:
        return json.loads(ended.stdout)["dependencies"]
    except (ValueError, KeyError):
        lines = ended.stderr.strip().splitlines() or [f"it ended with status {ended.returncode}"]
        raise NoAnswer(lines[-1]) from None


def main(constraints: Path = CONSTRAINTS) -> int:
    lines = [line.partition("#")[0].strip() for line in constraints.read_text().splitlines()]
    pins = [line for line in lines if line]
    try:
        if "skip_reason" in audit(pins[:1])[0]:
            print("pip-audit: skipped, the index here has no data on vulnerabilities")
            return 0
        found = audit(pins)
    except NoAnswer as error:
        if OUT_OF_REACH.search(str(error)):
            print(f"pip-audit: skipped, its data is out of reach ({error})")
            return 0
        print(f"pip-audit: {error}", file=sys.stderr)
        return 1
    bad = 0
    for package in found:
        for hole in package.get("vulns", []):
            bad += 1
            remedy = (
                f"fixed in {', '.join(hole['fix_versions'])}" if hole["fix_versions"] else "not fixed yet"
            )
            print(
                f"pip-audit: {package['name']} {package['version']}: {hole['id']}, {remedy}", file=sys.stderr
            )
    unknown = [package["name"] for package in found if "skip_reason" in package]
    print(f"pip-audit: {len(found) - len(unknown)} packages looked up, {bad} known vulnerabilities")
    if unknown:
        print(f"pip-audit: not on the index, so not looked up: {', '.join(unknown)}")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
