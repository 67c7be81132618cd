"""Counts and times in words."""

from datetime import timedelta


def counted(number: int, noun: str, plural: str = "") -> str:
    """ "1 level", "84,445 levels"; `plural` where an s doesn't do."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def duration(span: timedelta | None) -> str:
    """A span of time in its two largest units, an en dash for None."""
    if span is None:
        return "–"
    seconds = max(0, round(span.total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
