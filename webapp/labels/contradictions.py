"""When a verdict and the levels beside it contradict each other: one rule, for the server and for the page."""

from webapp.labels.models import Level, Verdict

_RANKS = {Level.BAD.value: 0, Level.NORMAL.value: 1, Level.GOOD.value: 2}


def contradiction(verdict: str, level_a: str, level_b: str) -> str | None:
    """What contradicts what, in a sentence; None where nothing does or a level was not given.

    The preferred response has the lower level; a tie is between bad and good; "both bad" where one is not bad.
    """
    if level_a not in _RANKS or level_b not in _RANKS:
        return None
    difference = _RANKS[level_a] - _RANKS[level_b]
    both = f"you called A {level_a} and B {level_b}."
    if verdict == Verdict.A and difference < 0:
        return f"A is better, but {both}"
    if verdict == Verdict.B and difference > 0:
        return f"B is better, but {both}"
    if verdict == Verdict.TIE and abs(difference) == 2:
        return f"A tie, but {both}"
    if verdict == Verdict.BOTH_BAD and (level_a, level_b) != (Level.BAD, Level.BAD):
        return f"Both bad, but {both}"
    return None
