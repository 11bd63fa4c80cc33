"""Sections on accuracy: tables 1 to 5 of the paper, other judges, attacks, budgets."""

import re
from collections.abc import Callable, Iterable
from statistics import fmean
from typing import Any

from ._paper import METHODS, NAMES, PAPER, TABLE_1, TABLE_3, TABLE_5, TABLE_5_OTHERS
from ._writing import OPEN, Read, nearest, on, percent, power, settings, spread, table, where


def methods(read: Read) -> list[str]:
    rows = []
    for (dataset, ipc), figures in ({("digits", 1): None} | TABLE_1).items():
        found = read(f"methods_{dataset}") if ipc == 1 else None
        where = f"{NAMES[dataset]}, {ipc}: ours"
        if found is None:
            rows.append([where, OPEN, *[None] * 5])
        else:
            ours = [by_seed(r for r in found["records"] if r["method"] == m) for m in METHODS]
            frepo = by_seed(r for r in found["records"] if r["method"] == "frepo")
            rows.append([where, *ours, frepo])
        if figures is not None:
            rows.append(["paper", *figures, None])
    said = [
        f"{NAMES[d]}: {settings(one['budget'])}"
        for d in ("digits", "mnist")
        if (one := read(f"methods_{d}"))
    ]
    return [
        "## The five methods (table 1)",
        "Data set and images per class; ours over three seeds. "
        f"{'; '.join(said) or 'Nothing has been measured'}. The paper: width 128, "
        "5,000 to 15,000 meta-iterations. (`benchmarks/methods.py`)",
        table(["data, images", "random", "VIG", "CIG", "RIG", "RCIG", "FRePo"], rows),
        "The order of the methods is what to compare; the budgets are not alike.",
    ]


def by_seed(records: Iterable[dict[str, Any]]) -> str | None:
    means = [100 * fmean(record["accuracies"]) for record in records]
    return spread(means) if means else None


def accuracy(read: Read) -> list[str]:
    found = read("reproduce")
    rows = []
    for row, (paper, _, _) in PAPER.items():
        ours = (found or {"rows": {}})["rows"].get(row)
        if ours is None:
            rows.append([where(row), OPEN, None, paper, None, None, None, None])
            continue
        networks = _networks(ours, "accuracies")
        random, minutes = ours["random subset, %"], ours["minutes"]
        worked = ours.get("processor minutes")
        used = settings(ours["settings"] | {"networks": len(networks)})
        rows.append([where(row), percent(networks), wide(ours), paper, f"{random:.1f}",
                     f"{minutes:.0f}", worked and f"{worked:.0f}", used])  # fmt: skip
    commands = [ours["command"] for ours in (found or {"rows": {}})["rows"].values()
                if "command" in ours]  # fmt: skip
    said = "\n".join(["```", *commands, "```"])
    return [
        "## Accuracy (tables 2 and 4)",
        f"RCIG under a budget of minutes{on(found)}; no augmentation. \u201cOurs\u201d is judged "
        "by networks of the width that distilled, and \u201cby 128\u201d by the paper's. The "
        "paper's figure is the better one of its table 8, with and without augmentation. The "
        "deviation is over the networks trained; a figure without one is of a single network. The "
        "minutes are of distilling, on a machine that others used too; those of the processors, "
        "all cores added up, of distilling and judging. (`benchmarks/reproduce.py`)",
        table(["data, images per class", "ours", "by 128", "paper", "random", "minutes",
               "of processors", "settings"], rows),
        *(["Each row's command:", said] if commands else []),
    ]  # fmt: skip


def _networks(row: dict[str, Any], name: str) -> list[float]:
    """Accuracies, as fractions, of all networks of all runs."""
    return [one for run in row["runs"].values() for one in run[name]]


def wide(row: dict[str, Any]) -> str | None:
    """By networks of the paper's width."""
    judged = row.get("by the wide judge")
    if row["settings"]["width"] == 128:
        return percent(_networks(row, "accuracies"))
    if judged is None or judged["width"] != 128:
        return None
    return percent(_networks(row, "by the wide judge"))


def authors(read: Read) -> list[str]:
    found = read("authors_set")
    rows = []
    for record in (found or {"records": []})["records"]:
        percents = [100 * one for one in record["accuracies"]]
        paper = "53.9 ± 1.0" if record["width"] == 128 else None
        rows.append([str(record["width"]), spread(percents), paper, str(len(percents))])
    return [
        "## The set that the authors released",
        "Their distilled CIFAR-10, one image per class, by our evaluation, on JPEG re-encoded "
        "test images. It checks the evaluation alone. (`benchmarks/authors_set.py`)",
        table(["width", "ours", "paper", "networks"], rows or [["128", OPEN, "53.9 ± 1.0", None]]),
    ]


def networks(read: Read) -> list[str]:
    found = read("networks_cifar10")
    measured = {(one["network"], one["norm"]): one for one in (found or {"rows": []})["rows"]}
    rows = []
    for pair in dict.fromkeys([*TABLE_3, *measured]):
        one = measured.get(pair)
        ours = (
            [percent(one.get(k)) for k in ("distilled", "random_subset")] if one else [OPEN, None]
        )
        rows.append([*pair, *ours, *TABLE_3.get(pair, (None, None))])
    return [
        "## Other networks (table 3)",
        "CIFAR-10, 10 images per class, distilled by a ConvNet without normalisation, then judged "
        "by other networks. Ours"
        f"{': ' + settings(found['settings']) if found and 'settings' in found else ' is open'}. "
        "The paper also has 51.3 ± 1.7 (54.4 ± 1.1) for a ResNet-18 in its \u201cdefault\u201d "
        "normalisation. "
        "(`benchmarks/networks.py`)",
        table(
            ["network", "norm", "ours", "random", "paper", "paper, distilled with batch norm"], rows
        ),  # fmt: skip
    ]


def attacks(read: Read) -> list[str]:
    found = read("attack_mnist500")
    kinds = ("distilled", "random_subset", "real_data")
    rows = []
    for name, paper in TABLE_5.items():
        ours: list[str | None] = [OPEN, None, None]
        if found and name.startswith("test accuracy"):
            ours = [percent([one["test_accuracy"] for one in found[kind]]) for kind in kinds]
        elif found:
            ours = [spread([one["auc"][name] for one in found[kind]], 2) for kind in kinds]
        pairs = [cell for pair in zip(ours, paper, strict=True) for cell in pair]
        rows.append(["MLP" if name == "mlp" else name.replace("_", " "), *pairs])
    return [
        "## Membership inference (table 5)",
        "10,000 images of MNIST distilled to 500. AUC of five attackers that look at a network's "
        "outputs on those images and on held-out ones: 0.5 is guessing, 1 is knowing. Networks "
        "are trained on the distilled set, on 500 random images, and on all 10,000. Ours"
        f"{': ' + settings(found['settings']) if found else ' is open'}. The paper: 16,000 "
        "iterations, 25 networks. (`benchmarks/attack.py`)",
        table(["attacker", "distilled", "paper", "random", "paper", "real", "paper"], rows),
        *_attacks_on_others((found or {}).get("others", {})),
    ]


def _attacks_on_others(others: dict[str, dict[str, Any]]) -> list[str]:
    """A row for each other method: the paper's columns, test accuracy first."""
    if not others:
        return [f"The other methods of the table: {OPEN}."]
    names = list(TABLE_5)
    rows = []
    for method, found in others.items():
        networks = found["distilled"]
        ours = {
            name: spread([one["auc"][name] for one in networks], 2)
            for name in names if not name.startswith("test")
        }  # fmt: skip
        accuracy = percent([one["test_accuracy"] for one in networks])
        theirs = TABLE_5_OTHERS.get(method)
        rows.append([method, accuracy, *ours.values()])
        rows.append(["paper", *(theirs or [None] * len(names))])
    iterations = [f"{name} {one['settings']['meta-iterations']:,}" for name, one in others.items()]
    heads = ["threshold", "logistic regression", "MLP", "random forest", "nearest neighbours"]
    return [
        "Networks trained on sets of other methods, by the same recipe, under the same attackers "
        f"(meta-iterations: {', '.join(iterations)}):",
        table(["distilled by", "test accuracy, %", *heads], rows),
    ]


def steps(read: Read) -> list[str]:
    found = read("steps")
    head = [
        "## How many steps (figures 1 and 2)",
        "MNIST, one image per class; rows are steps of Adam in the inner problem, columns those "
        "in the adjoint. The paper shows the same grid for CIFAR as pictures, without figures; its "
        "text has 150 to 760 ms an iteration (CIFAR-100, one image per class, none to 30 + 30 "
        "steps) and chooses 20 + 20. (`benchmarks/steps.py`)",
    ]
    counts = (0, 2, 5, 10, 20, 30)
    rows_of, accuracies = (found or {}).get("rows", {}), (found or {}).get("accuracies", {})
    inner = sorted({int(n) for name in rows_of for n in re.findall(r"Adam (\d+) \+", name)})
    others = [name for name in rows_of if not name.startswith("Adam")]
    if found:
        head.append(f"Settings: {settings(found['settings'])}.")
        counts = tuple(inner)

    def grid(title: str, cell: Callable[[str], str | None]) -> list[str]:
        rows = [[f"{i} inner", *(cell(f"Adam {i} + {a}") for a in counts)] for i in counts]
        return [title, table(["", *(f"{a} adjoint" for a in counts)], rows)]

    def figure(column: int, form: Callable[[float], str]) -> Callable[[str], str | None]:
        return lambda name: form(rows_of[name][column]) if name in rows_of else None

    def test_accuracy(name: str) -> str | None:
        return f"{accuracies[name]:.1f}" if name in accuracies else None

    if not found:
        return [*head, table(["", "ours"], [[f"figure {n}", OPEN] for n in (1, 2)])]
    duration, error = figure(0, "{:.2f}".format), figure(1, power)
    return [
        *head,
        *grid("Time of a meta-gradient, 20 + 20 steps being 1:", duration),
        *grid("Its relative error, against a solve in float64:", error),
        *grid("Test accuracy after a short distillation:",
              test_accuracy),
        "Conjugate gradients with so many steps in each solve, on the same scales:",
        table(
            ["", "time", "error", "test accuracy"],
            [[name, duration(name), error(name), test_accuracy(name)] for name in others],
        ),
    ]  # fmt: skip


def over_time(read: Read) -> list[str]:
    parts = [
        "## Accuracy at equal time (figure 8)",
        "MNIST, one image per class, width 32, batch 256; variants take turns in one process, so "
        "that a slow moment of the machine is the same to all. The time is that of the "
        "meta-iterations. (`benchmarks/accuracy_over_time.py`)",
    ]
    found = read("accuracy_over_time")
    if found is None:
        parts.append(f"{OPEN}.".capitalize())
    else:
        records = found["records"]
        longest = max(records, key=lambda r: len(r["points"]))["points"]
        rows, seeds = [], len({record["seed"] for record in records})
        for variant in dict.fromkeys(r["variant"] for r in records):
            own = [r["points"] for r in records if r["variant"] == variant]
            cells = []
            for i in range(1, len(longest)):
                means = [100 * fmean(p[i]["accuracies"]) for p in own if i < len(p)]
                cells.append(spread(means) if means else None)
            name = variant if len(own) == seeds else f"{variant} (over {len(own)})"
            rows.append([name, *cells])
        marks = [f"{nearest(point['seconds'])} s" for point in longest[1:]]
        parts += [f"Over {seeds} seed{'s' * (seeds > 1)}{on(found)}:", table(["", *marks], rows)]
    parts.append(
        "The paper's figure 8 is for CIFAR-100, one image per class, on an RTX 4090, as a picture; "
        f"by its text RCIG is past all others within 100 s. Here that is {OPEN}, and neither is "
        "the memory by width of the same figure."
    )
    return parts
