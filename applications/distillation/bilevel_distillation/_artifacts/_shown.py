"""What `print` and a notebook show of a distilled set and of what was found with it."""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import UInt8

from ._figures import percent

MOST_IMAGES = 100
_CELL = 72  # pixels, about


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of words in HTML."""
    head = "".join(f"<th>{escape(one)}</th>" for one in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    return f"<table>{caption}<tr>{head}</tr>{body}</table>"


def lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same in columns of plain text."""
    whole = [header, *rows]
    widths = [max(len(row[at]) for row in whole) for at in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in whole
    )


def accuracy_rows(
    distilled: Sequence[float], random_subset: Sequence[float] | None
) -> list[list[str]]:
    found = {"distilled set": distilled, "random subset, same size": random_subset}
    return [[name, percent(one), str(len(one))] for name, one in found.items() if one is not None]


ACCURACIES = ("trained on", "test accuracy", "networks")


def grid(
    title: str, images: UInt8[np.ndarray, "n height width channels"], names: Sequence[str]
) -> str:
    """Pictures in HTML, each with its name under it; the first `MOST_IMAGES` of them."""
    figures = []
    for image, name in zip(images[:MOST_IMAGES], names, strict=False):
        figures.append(
            '<figure style="display: inline-block; margin: 4px; text-align: center">'
            f'<img src="{_uri(image)}" alt="{escape(name)}" style="width: {_CELL}px; '
            f'image-rendering: pixelated"><figcaption>{escape(name)}</figcaption></figure>'
        )
    more = len(images) - MOST_IMAGES
    rest = f"<div>and {more} more</div>" if more > 0 else ""
    return f"<div><div>{escape(title)}</div>{''.join(figures)}{rest}</div>"


def _uri(image: np.ndarray) -> str:
    from PIL import Image

    pixels = image[..., 0] if image.shape[-1] == 1 else image
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
