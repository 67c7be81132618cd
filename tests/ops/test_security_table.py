"""docs/security.md: each line names a test that is there, or says why there is none."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TABLE = (REPOSITORY / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d.*?) \| (.*?) \|(.*)\|$", TABLE, re.MULTILINE)
NAMED = re.compile(r"(tests/\S+\.py)::(test_\w+)")


def test_every_chapter_and_line_is_read() -> None:
    assert len(ROWS) > 80
    chapters = {requirements.partition(".")[0] for requirements, _, _ in ROWS}
    assert chapters == {str(number) for number in range(2, 15)}


@pytest.mark.parametrize(("requirements", "what", "shown"), ROWS)
def test_it_names_a_test_that_is_there(requirements: str, what: str, shown: str) -> None:
    found = NAMED.search(shown)
    if found is None:
        assert re.search(r"not applicable because: \w|not met|make lint", what, re.IGNORECASE), requirements
        return
    path = REPOSITORY / found[1]
    assert re.search(rf"^\s*def {found[2]}\(", path.read_text(encoding="utf-8"), re.MULTILINE), found[0]
