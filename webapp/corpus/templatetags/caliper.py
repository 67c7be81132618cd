"""Filters every page may use: Markdown, exact and relative times, short numbers."""

import sys
from datetime import datetime
from typing import Any

from django import template
from django.contrib.humanize.templatetags.humanize import naturaltime
from django.template.base import FilterExpression, Parser, Token
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from webapp.corpus import rendering
from webapp.corpus.access import own_hosts
from webapp.corpus.kept import Kept
from webapp.corpus.rendering import Images, plain_text, render_markdown
from webapp.corpus.turns import Answer, Conversation, answer_of, conversation_of
from webapp.paths import without_paths
from webapp.words import counted as in_words

register = template.Library()


_fragments: Kept[SafeString] = Kept(2 * 2**20, sys.getsizeof)


class _KeptNode(template.Node):
    def __init__(self, nodelist: template.NodeList, arguments: list[FilterExpression]) -> None:
        self.nodelist, self._arguments = nodelist, arguments

    def render(self, context: template.Context) -> SafeString:
        arguments = [argument.resolve(context) for argument in self._arguments]
        return _fragments.of(lambda: self.nodelist.render(context), *arguments)


@register.tag
def kept(parser: Parser, token: Token) -> _KeptNode:
    """{% kept NAME ARGUMENTS... %}...{% endkept %}: rendered once for all that is in it, which the arguments name."""
    arguments = [parser.compile_filter(word) for word in token.split_contents()[1:]]
    nodelist = parser.parse(("endkept",))
    parser.delete_first_token()
    return _KeptNode(nodelist, arguments)


@register.filter
def markdown(text: str) -> SafeString:
    """Sanitised HTML of a Markdown text."""
    return render_markdown(text)


@register.filter
def plain(text: str, words: int = 24) -> str:
    """The beginning of a Markdown text as one line of plain words, for lists."""
    return plain_text(text, words)


@register.simple_tag
def plain_sides(first: str, second: str, words: int = 24) -> tuple[str, str]:
    """Two texts in a list, each as `plain` has it, or from where they differ."""
    return rendering.plain_sides(first, second, words)


@register.simple_tag(takes_context=True)
def conversation(
    context: dict[str, Any], messages: list[dict[str, Any]], tools: Any = None, fold: Any = False
) -> Conversation:
    """A prompt's turns as turns.html shows them."""
    return conversation_of(messages or [], tools or [], fold=bool(fold), images=_images(context))


@register.simple_tag(takes_context=True)
def answer_turns(context: dict[str, Any], answer: Any, rival: Any = None, fold: Any = False) -> Answer:
    """An answer's turns as response_text.html shows them, compared with its rival."""
    return answer_of(answer, rival or None, fold=bool(fold), images=_images(context))


def _images(context: dict[str, Any]) -> Images | None:
    """Pictures are loaded where the project says so, from other sites alone."""
    project, request = context.get("project"), context.get("request")
    if project is None or request is None or not getattr(project, "load_images", False):
        return None
    return Images(own=own_hosts(request))


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
def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign; no sign where it rounds to nothing."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if text.strip("+−0.") else text[1:]


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
