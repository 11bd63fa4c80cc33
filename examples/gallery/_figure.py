"""Where the figures go, and how they look."""

import os
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

PICTURES = Path(
    os.environ.get("BILEVEL_PICTURES", Path(__file__).parents[2] / "docs" / "pictures" / "gallery")
)
BLUE, RED, GREY = "#2563a8", "#c2410c", "#9aa5b1"


def axes(columns: int = 1):
    return plt.subplots(1, columns, figsize=(4 * columns, 3), layout="constrained")


def save(figure, script: str) -> None:
    for ax in figure.axes:
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURES / f"{Path(script).stem}.png", dpi=110)
