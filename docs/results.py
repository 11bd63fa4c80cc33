"""Write docs/results.md: what benchmarks/results/*.json hold, beside the figures of the RCIG paper.

python docs/results.py            writes the page
python docs/results.py --check    fails if the page is not what the results give

Needs nothing but Python. A result that is not there leaves its rows open.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from _results._accuracy import (
    accuracy,
    attacks,
    authors,
    methods,
    networks,
    over_time,
    steps,
)
from _results._continual import continual
from _results._cost import devices, gradient, precision, presets, scaling, subsampling, time
from _results._gpu import gpu
from _results._ranking import ranking
from _results._systems import systems
from _results._toolkit import faults, fuzz, toolkit, whole_problems
from _results._worth import pictures, worth
from _results._writing import OPEN, Read

HERE = Path(__file__).parent
PAGE = HERE / "results.md"
PICTURES = HERE / "pictures"
RESULTS = HERE.parent / "benchmarks" / "results"


def page(read: Read) -> str:
    """The whole page."""
    parts = [
        "---\nhide:\n  - toc  # the tables are wide\n---",
        "# Results",
        "What was measured here, beside what the RCIG paper reports (Loo, Hasani, Lechner, Rus, "
        "ICML 2023). `python docs/results.py` writes this page from `benchmarks/results/*.json`; "
        "each section names the script that measured it, so that every figure can be had again.",
        "How to read it: \u201cours\u201d is this library, \u201cpaper\u201d the published "
        "figure. Accuracies are test accuracies in %, mean ± standard deviation. "
        f"\u201c{OPEN}\u201d is said where nobody has taken a figure here yet; a dash stands "
        "where there is none to show. Widths, batches and "
        "budgets are often far below the paper's: look at the settings before you compare.",
        "What the full sizes need: the paper's width of 128, batch of 1,024 and iterations are "
        "what `bilevel-distill run` takes by default and the scripts take as arguments. The memory "
        "of each row is further down; the time, on the paper's RTX A6000, was 40 minutes to 13 "
        "hours (table 7 below).",
        *methods(read), *systems(read), *worth(read), *ranking(read),
        *continual(read),
        *accuracy(read), *time(read), *gpu(read),
        *authors(read), *networks(read),
        *attacks(read), *steps(read), *subsampling(read), *over_time(read), *scaling(read),
        *gradient(read), *precision(read), *presets(read), *toolkit(read), *whole_problems(read),
        *fuzz(read),
        *devices(read), *faults(read),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def reader(folder: Path) -> Read:
    def read(name: str) -> dict[str, Any] | None:
        path = folder / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    return read


def main() -> None:
    arguments = argparse.ArgumentParser(description="Write docs/results.md from the results.")
    arguments.add_argument("--check", action="store_true", help="only say whether it is up to date")
    asked = arguments.parse_args()
    text = page(reader(RESULTS))
    if not asked.check:
        PAGE.write_text(text, encoding="utf-8")
        for name, drawn in pictures(reader(RESULTS)).items():
            (PICTURES / name).write_text(drawn, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit("docs/results.md is not what benchmarks/results gives: run python docs/results.py")


if __name__ == "__main__":
    main()
