"""Counts in words."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """ "1 level", "84,445 levels"; `plural` where an s doesn't do."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
