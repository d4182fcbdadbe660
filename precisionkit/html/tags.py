"""Markup, built from functions: text is escaped when it becomes a child or an attribute, so nothing can be forgotten."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import TypeAlias


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Child: TypeAlias = "str | Iterable[Child] | None"
Attribute: TypeAlias = "str | int | float | bool | None"

_VOID = frozenset({"img", "input", "meta"})
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ufffe\uffff]")


def escaped(text: str) -> Html:
    """Escape text; control characters, which could hide or reorder it, are shown as a replacement character."""
    return Html(escape(_UNSEEN.sub("\ufffd", text)))


def join(children: Child, between: str = "") -> Html:
    """Join markup and text, which is escaped."""
    if children is None:
        return Html("")
    if isinstance(children, Html):
        return children
    if isinstance(children, str):
        return escaped(children)
    return Html(between.join([join(child) for child in children]))


def tag(name: str, /, *children: Child, **attributes: Attribute) -> Html:
    """Make an element.

    Parameters
    ----------
    name : str
    *children : text, markup, or iterables of them
        None is left out.
    **attributes
        ``_`` stands for ``-``, and is taken off the end (``class_``).  None and False leave one out, True has no value.
    """
    given = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None and value is not False)
    return Html(f"<{name}{given}>" if name in _VOID else f"<{name}{given}>{join(children)}</{name}>")


def scrolling(content: Child, label: str) -> Html:
    """Put what may be wider than the screen into a part that scrolls, from the keyboard as well."""
    return tag("div", content, class_="scroll", tabindex=0, role="region", aria_label=label)


def facts(caption: str, rows: Iterable[tuple[str, Child]]) -> Html:
    """Make a table of names and what they are."""
    body = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in rows]
    return tag("table", tag("caption", caption), tag("tbody", body), class_="facts")


def open_row(head: str, cells: Iterable[Child], kind: str | None = None) -> Html:
    """Make a table's row without the end tags that HTML lets be left out, for tables of thousands."""
    name = "" if kind is None else _attribute("class", kind)
    return Html(f"<tr{name}><th scope=row>{escaped(head)}" + "".join(f"<td>{join(cell)}" for cell in cells))


def _attribute(key: str, value: Attribute) -> str:
    name = key.removesuffix("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escaped(_text(value))}"'


def _text(value: Attribute) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
