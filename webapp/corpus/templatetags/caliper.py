"""Filters every page may use: Markdown, exact and relative times, short numbers."""

from datetime import datetime
from typing import Any

from django import template
from django.contrib.humanize.templatetags.humanize import naturaltime
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from webapp.corpus.rendering import as_written, look_alike, one_line, render_markdown
from webapp.paths import without_paths
from webapp.words import counted as in_words

register = template.Library()


@register.filter
def markdown(text: str) -> SafeString:
    """Sanitised HTML of a Markdown text."""
    return render_markdown(text)


@register.filter
def excerpt(text: str, words: int) -> str:
    """The first words of a text on one line, for lists."""
    return one_line(text, words)


@register.filter
def written(text: str, rival: str = "") -> SafeString:
    """The text as it was written; with a rival, the words in which they differ are marked."""
    return as_written(text, rival)


@register.filter
def looks_like(text: str, rival: str) -> bool:
    """Whether the text beside it, if there is one, would be drawn as this one is."""
    return bool(rival) and look_alike(text, rival)


@register.filter
def no_paths(text: str) -> str:
    """A text without paths of the server; jobs of older versions stored them with their errors."""
    return without_paths(text)


@register.filter
def ago(moment: datetime | None) -> SafeString | str:
    """A relative time with the exact one on hover."""
    if moment is None:
        return "–"
    local = timezone.localtime(moment)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        local.isoformat(),
        local.strftime("%Y-%m-%d %H:%M:%S %Z"),
        naturaltime(moment),
    )


@register.filter
def counted(number: int | None, nouns: str) -> str:
    """A count with its noun: {{ 1|counted:"level" }}, {{ n|counted:"person,people" }}; an en dash for None."""
    return "–" if number in (None, "") else in_words(int(number or 0), *nouns.split(","))


@register.filter
def number(value: Any, digits: int = 2) -> str:
    """A number with fixed digits, an en dash for None and for what a template doesn't find."""
    return "–" if value in (None, "") else f"{float(value):.{digits}f}"


@register.filter
def percent(value: Any, digits: int = 0) -> str:
    """A share 0..1 as percent, an en dash for None and for what a template doesn't find."""
    return "–" if value in (None, "") else f"{100 * float(value):.{digits}f} %"


@register.filter
def get(mapping: dict[Any, Any] | None, key: Any) -> Any:
    """mapping[key] in a template; None when absent."""
    return mapping.get(key) if mapping else None


@register.simple_tag(takes_context=True)
def query(context: dict[str, Any], **changes: Any) -> str:
    """The page's query string with some parameters changed (None removes one)."""
    parameters = context["request"].GET.copy()
    for name, value in changes.items():
        if value is None:
            parameters.pop(name, None)
        else:
            parameters[name] = value
    encoded = parameters.urlencode()
    return f"?{encoded}" if encoded else "?"
