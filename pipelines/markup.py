"""HTML elements. Every text is escaped unless it is `Html`, so a document cannot become part of the page.

The page loads nothing and runs nothing: its policy (Content-Security-Policy) allows its own style sheet, by
hash, and nothing else. So there are no style attributes, no scripts and no links to other places.
"""

import base64
import hashlib
import html
import re
from collections.abc import Mapping

_VOID = ("meta", "rect", "wbr")
# Controls that HTML does not allow or that change the direction of the text after them.
_UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")
_BREAK_AFTER = re.compile("([/_@])")


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def escape(value: object) -> Html:
    """The value as text of a page; Html stays as it is. Control characters become U+FFFD."""
    if isinstance(value, Html):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        value = f"{value:,}"
    return Html(html.escape(_UNSAFE.sub("\ufffd", str(value))))


def tag(element: str, /, *children: object, **attributes: object) -> Html:
    """An element. In names of attributes `_` stands for `-`, and one at the end is left out: class_, for_."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_UNSAFE.sub(chr(0xFFFD), str(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if element in _VOID:
        return Html(f"<{element}{written}>" if element != "rect" else f"<{element}{written}/>")
    return Html(f"<{element}{written}>{''.join(map(escape, children))}</{element}>")


def join(*parts: object) -> Html:
    return Html("".join(map(escape, parts)))


def name(text: str) -> Html:
    """A long name that may be broken after /, _ and @."""
    pieces = _BREAK_AFTER.split(text)
    return Html("".join(escape(piece) + ("<wbr>" if piece in "/_@" and piece else "") for piece in pieces))


def describe(properties: Mapping[str, str]) -> Html:
    """Meta elements that name what the page is about."""
    return join(*(tag("meta", name=f"distributary:{key}", content=properties[key]) for key in properties))


def page(title: str, style: str, body: Html, properties: Mapping[str, str]) -> str:
    """A whole page. `properties` become meta elements, for programs that look for the page's tables."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = join(
        tag("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">'),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="color-scheme", content="light dark"),
        describe(properties),
        tag("title", title),
        Html(f"<style>{style}</style>"),
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'
