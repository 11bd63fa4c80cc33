"""The section on continual learning."""

from typing import Any

from ._paper import NAMES
from ._writing import OPEN, Read, counted, spread, table


def continual(read: Read) -> list[str]:
    parts = [
        "## Continual learning",
        "Classes come two at a time, and a task's images are gone when the next one begins. "
        "Memories of the same bytes: distilled images (16-bit numbers, labels included), or "
        "chosen real ones (PNG files, a byte for the label). After each task fresh networks are "
        "trained on the memory alone, for 1,000 steps where a class has one image and for 2,000 "
        "where it has more; test accuracy in % on all classes seen so far, mean and "
        "deviation over seeds, which also draw the order of the classes. "
        "(`examples/continual_learning.py`)",
    ]
    for dataset in ("mnist", "cifar10"):
        found = read(f"continual_{dataset}")
        parts += [f"{NAMES[dataset]}: {OPEN}."] if found is None else _one(dataset, found)
    return parts


def _one(dataset: str, found: dict[str, Any]) -> list[str]:
    asked = found["settings"]
    rows = [
        [name, " to ".join(map(str, found["images per class"][name])),
         *(spread([one[place] for one in of]) for place in range(len(found["classes seen"])))]
        for name, of in found["accuracies"].items()
    ]  # fmt: skip
    return [
        f"{NAMES[dataset]}: width {asked['width']}, batch {asked['batch']}, "
        f"{asked['iterations']} meta-iterations a task, {counted(len(asked['seeds']), 'seed')}, "
        f"{counted(asked['networks'], 'network')} each. Columns: classes seen.",
        table(["memory", "images per class", *map(str, found["classes seen"])], rows),
    ]
