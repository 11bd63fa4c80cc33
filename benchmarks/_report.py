"""What every benchmark shares: the machine in general terms, data, a JSON file, a table."""

import json
import os
import platform
import runpy
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
EXAMPLES = Path(__file__).parents[1] / "examples"
PACKAGES = ("jax", "jaxlib", "equinox", "optax", "numpy")

data_folder: Callable[[str], Path] = runpy.run_path(str(EXAMPLES / "_data.py"))["data_folder"]
"""Where a data set is, in one place for benchmarks and examples."""


def machine() -> dict[str, Any]:
    """Device, cores and versions; nothing that names the machine itself."""
    import jax

    return {
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def write(name: str, payload: dict[str, Any]) -> Path:
    """Write `payload`, with the machine, to `results/name.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine()} | payload, indent=2) + "\n")
    return path


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under headers, numbers to the right."""
    columns = [_column(header, cells) for header, *cells in zip(headers, *rows, strict=True)]
    for line in zip(*columns, strict=True):
        print("  ".join(line).rstrip())


def _column(header: str, cells: Sequence[Any]) -> list[str]:
    texts = [header, "", *map(_text, cells)]
    width = max(map(len, texts))
    texts[1] = "-" * width
    numbers = all(isinstance(cell, int | float) for cell in cells)
    return [text.rjust(width) if numbers else text.ljust(width) for text in texts]


def _text(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.4g}"
    return str(cell)
