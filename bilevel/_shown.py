"""What a notebook shows of a record: the lines that `print` gives, as a table."""

import re
from html import escape

_GAP = re.compile(r"(?<=\S) {2,}")


def as_table(title: str, text: str) -> str:
    """Lines of a name, two spaces or more, and what is to be said of it, in HTML.

    Examples:
        >>> as_table("A record", "value  3")
        '<table><caption>A record</caption><tr><th style="text-align: left">value</th><td style="text-align: left">3</td></tr></table>'
    """  # noqa: E501
    rows = []
    for line in text.splitlines():
        inner = len(line) - len(line.lstrip())
        name, *rest = _GAP.split(line.strip(), maxsplit=1)
        style = f"text-align: left{f'; padding-left: {inner}em' if inner else ''}"
        said = escape(rest[0] if rest else "").replace("  ", "&ensp;")
        rows.append(
            f'<tr><th style="{style}">{escape(name)}</th>'
            f'<td style="text-align: left">{said}</td></tr>'
        )
    return f"<table><caption>{escape(title)}</caption>{''.join(rows)}</table>"
