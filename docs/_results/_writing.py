"""How figures and tables are written."""

import re
from collections.abc import Callable, Sequence
from statistics import fmean, pstdev
from typing import Any

from ._paper import NAMES

Read = Callable[[str], dict[str, Any] | None]


OPEN = "not measured"


def where(row: str) -> str:
    dataset, ipc = row.split("/")
    return f"{NAMES[dataset]}, {ipc}"


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def spread(figures: Sequence[float], digits: int = 1) -> str:
    if len(figures) == 1:
        return f"{figures[0]:.{digits}f}"
    return f"{fmean(figures):.{digits}f} ± {pstdev(figures):.{digits}f}"


def percent(fractions: Sequence[float] | None) -> str | None:
    return spread([100 * one for one in fractions]) if fractions else None


def short(value: Any) -> str:
    """Three significant digits; large numbers in full."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def power(value: float, digits: int = 1) -> str:
    """`1.9e-4`, and `0.19` where that is shorter."""
    if abs(value) >= 0.01:
        return f"{value:.{digits + 1}g}"
    return re.sub(r"e([+-])0*(\d)", r"e\1\2", f"{value:.{digits}e}").replace("e+", "e")


def nearest(seconds: float) -> int:
    """The mark that was meant: measured just after it."""
    return int(seconds) if seconds < 10 else 5 * int(seconds // 5)


def settings(values: dict[str, Any]) -> str:
    """`width 16, batch size 256`, without what is open or says nothing about the work."""
    said = []
    for name, value in values.items():
        if value is None or name in ("load", "out", "seed"):
            continue
        if isinstance(value, list | tuple):
            value = " / ".join(map(short, value))
        said.append(f"{name.replace('_', ' ')} {short(value)}")
    return ", ".join(said)


def on(found: dict[str, Any] | None) -> str:
    """The machine, where the result names it."""
    machine = (found or {}).get("machine")
    if not machine:
        return ""
    if machine["device"] == "cpu":
        return f", on {machine['cores']} CPU cores"
    return f", on {machine['device']}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str | None]]) -> str:
    """Markdown; columns of words to the left, of figures to the right."""
    columns = zip(*rows, strict=True)
    rule = ["---" if any(map(_is_word, column)) else "---:" for column in columns]
    lines = [heads, ["---", *rule[1:]], *rows]
    return "\n".join(
        "| " + " | ".join("–" if cell is None else str(cell) for cell in line) + " |"
        for line in lines
    )


def _is_word(cell: str | None) -> bool:
    return cell not in (None, "", OPEN, "not reached") and not str(cell)[0].isdigit()
