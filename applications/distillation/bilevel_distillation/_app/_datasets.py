"""The data sets that have a name of their own, and which of them are on this machine."""

import os
from pathlib import Path

from rich.table import Table

from ..data import PRESETS, Preset


def datasets_table() -> Table:
    """A row for each: its name, where it comes from, and where it is here."""
    table = Table(title="data sets by name", title_justify="left")
    for name in ("--dataset", "from", "--ipc of the paper", "here"):
        table.add_column(name, overflow="fold")
    table.add_row("digits", "scikit-learn", "", "yes, installed with it")
    for name, preset in PRESETS.items():
        ipc, place = ", ".join(map(str, preset.iterations)), place_of(name, preset)
        table.add_row(name, preset.hub, ipc, "no" if place is None else f"yes, {place}")
    return table


def place_of(name: str, preset: Preset) -> Path | None:
    """Where a data set is on this machine; None where it is not."""
    own = os.environ.get("BILEVEL_DATA")
    if own and (Path(own) / name).is_dir():
        return Path(own) / name
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    prepared = Path(os.environ.get("HF_DATASETS_CACHE") or home / "datasets")
    fetched = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    for folder in (
        prepared / preset.hub.replace("/", "___"),
        fetched / f"datasets--{preset.hub.replace('/', '--')}",
    ):
        if folder.is_dir():
            return folder
    return None
