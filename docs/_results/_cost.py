"""Sections on what a meta-iteration costs, and how exact it is."""

import math

from ._paper import FIGURE_5, NAMES, PAPER
from ._writing import OPEN, Read, on, percent, power, settings, short, table, where


def time(read: Read) -> list[str]:
    found = read("reproduce")
    rows = []
    for row, (_, seconds, iterations) in PAPER.items():
        ours = (found or {"rows": {}})["rows"].get(row)
        paper = [f"{seconds:.2f}", f"{iterations:,}", f"{seconds * iterations / 60:.0f}"]
        if ours is None:
            rows.append([where(row), OPEN, paper[0], None, paper[1], None, paper[2]])
            continue
        reached = ours["minutes to the paper's"]
        rows.append([
            where(row), f"{ours['seconds an iteration']:.2g}", paper[0],
            f"{ours['iterations']:,}", paper[1],
            "not reached" if reached is None or math.isnan(reached) else f"{reached:.1f}",
            paper[2],
        ])  # fmt: skip
    return [
        "## Time (table 7)",
        f"The same runs{on(found)}; the paper's were on an RTX A6000. \u201cMinutes to it\u201d "
        "is when one network of the learning curve first had the paper's accuracy, \u201cpaper, "
        "minutes\u201d the paper's whole run.",
        table(
            [
                "data, images per class",
                "s / iteration",
                "paper",
                "iterations",
                "paper",
                "minutes to it",
                "paper, minutes",
            ],
            rows,
        ),  # fmt: skip
    ]


def subsampling(read: Read) -> list[str]:
    found = read("subsampling") or {}
    tried, memory = found.get("distillation"), found.get("memory")
    measured = {row[0]: row[1:] for row in tried["rows"]} if tried else {}
    rows = []
    for subset, (gigabytes, paper) in FIGURE_5.items():
        ours: list[str | None] = [OPEN, None]
        if subset in measured:
            seconds, mean, deviation = measured[subset]
            accuracy = OPEN if mean is None else f"{mean:.1f} ± {deviation:.1f}"
            ours = [accuracy, f"{seconds:.1f}"]
        rows.append([f"{subset:,}", *ours, paper or None, gigabytes or None])
    said = f"Ours: {settings(tried['settings'])}. " if tried else ""
    parts = [
        "## Deriving by some of the images (figure 5)",
        "5,000 distilled images, 50 for each of 100 classes; derivatives go through `n_subset` of "
        f"them. {said}The paper: CIFAR-100, width 128, 4,000 meta-iterations; memory and accuracy "
        "where its text gives them. (`benchmarks/subsampling.py`)",
        table(["n_subset", "ours", "seconds", "paper", "paper, memory in Gb"], rows),
    ]
    if memory is None:
        return [*parts, f"Memory: {OPEN}."]
    return [
        *parts,
        "Memory of one meta-step, compiled whole as on an accelerator "
        f"({settings(memory['settings'])}):",
        table(memory["columns"], [[row[0], *map(short, row[1:])] for row in memory["rows"]]),
    ]


def scaling(read: Read) -> list[str]:
    found = read("scaling")
    rows = []
    for name, one in (found or {"directions": {}})["directions"].items():
        sizes = [size for size, _ in one["rows"]]
        first, last = one["rows"][0][1][0], one["rows"][-1][1][0]
        exponents = one["exponents"]
        rows.append([
            name, f"{short(sizes[0])} to {short(sizes[-1])}", f"{short(first)} to {short(last)}",
            *(f"{exponents[c]:.2f}" if c in exponents else None
              for c in ("seconds", "10^9 operations")),
        ])  # fmt: skip
    return [
        "## How the work grows (section 3.5)",
        "One size at a time, all others fixed; RCIG by conjugate gradients in a fixed number of "
        f"steps{on(found)}. The exponent p is that of the fit a + b size^p. The paper has the time "
        "linear in the images and in the steps. (`benchmarks/scaling.py`)",
        table(
            ["size", "from, to", "seconds", "p of the time", "p of the operations"],
            rows or [["all", OPEN, None, None, None]],
        ),  # fmt: skip
    ]


def gradient(read: Read) -> list[str]:
    found, whole = read("meta_gradient"), read("meta_step")
    parts = ["## The meta-gradient itself"]
    if found is None:
        parts.append(f"Its error: {OPEN}.")
    else:
        parts += [
            "Relative error of RCIG's meta-gradient against a dense factorisation in float64, and "
            f"the residual of the adjoint that it came with ({settings(found['settings'])}; "
            "`benchmarks/meta_gradient.py`).",
            table(
                ["way", "error", "adjoint residual"],
                [
                    [way, *(power(float(x)) if x else None for x in cells)]
                    for way, *cells in found["rows"]
                ],
            ),  # fmt: skip
        ]
    if whole is None:
        return [*parts, f"Time of a meta-iteration: {OPEN}."]
    rows = []
    for one in whole["cases"].values():
        size = f"{one['settings']['n']} of {one['settings']['classes']} classes"
        for row in one["rows"]:
            way, seconds, share, _, error, *_, count = row
            rows.append([size, way, f"{seconds:.2f}", f"{1 / share:.1f}", power(error), count])
            size = ""
    any_case = next(iter(whole["cases"].values()))["settings"]
    kept = {k: any_case[k] for k in ("width", "batch") if k in any_case}
    return [
        *parts,
        "One meta-iteration beside a plain transcription of the paper's Algorithm 1 "
        f"({settings(kept)}{on(whole)}; `benchmarks/meta_step.py`). How many times as fast, and "
        "the error of the meta-gradient.",
        table(["distilled images", "way", "seconds", "times as fast", "error", "steps"], rows),
    ]


def precision(read: Read) -> list[str]:
    found = read("precision")
    head = [
        "## Precision",
        "What `--precision` does: the relative error of the meta-gradient, and of its part for the "
        "images, against float64; and the accuracy on digits, three networks for each seed, "
        "trained in float32. On an accelerator that multiplies so it would be faster; here its "
        "rounding is emulated: the operands of all products but those of the small solves are "
        "rounded to 10 or 7 bits. "
        f"({settings(found['settings']) + '; ' if found else ''}`benchmarks/precision.py`)",
    ]
    if found is None:
        return [*head, f"{OPEN.capitalize()}."]
    rows = [
        [case, name, power(error), power(of_images), steps, result]
        for case, name, error, of_images, steps, result in found["rows"]
    ]
    accuracies = [["digits", name, percent(one)] for name, one in found["accuracies"].items()]
    return [
        *head,
        table(["problem", "precision", "error", "of the images", "steps", "solves"], rows),
        table(["distilled", "precision", "accuracy"], accuracies),
    ]


def presets(read: Read) -> list[str]:
    found = read("presets")
    parts = [
        "## The meta-step of the paper's rows, compiled",
        "Width 128, batch 1,024, the paper's subsets: the meta-step compiled whole, as for an "
        f"accelerator, for shapes alone{on(found)}. Memory is by the program, activations kept; "
        "`--remat --microbatch 250` takes less. (`benchmarks/presets.py`)",
    ]
    if found is None:
        return [*parts, f"{OPEN.capitalize()}."]
    columns = ["distilled", "n_subset", "compilation, s", "memory, GB",
               "of it training images, GB"]  # fmt: skip
    rows = []
    for row, one in found["rows"].items():
        dataset, ipc = row.split("/")
        rows.append([f"{NAMES[dataset]}, {ipc}", *(short(one[column]) for column in columns)])
    return [*parts, table(["row", *columns], rows)]


def devices(read: Read) -> list[str]:
    found = read("devices")
    if found is None:
        return ["## Several devices", f"{OPEN.capitalize()}."]
    rows = [
        [str(one["devices"]), short(one["operations"] / 1e12), short(one["memory_bytes"] / 1e9)]
        for one in found["programs"]
    ]
    parts = [
        "## Several devices",
        f"The meta-step compiled for simulated devices ({settings(found['settings'])}; "
        "`benchmarks/devices.py`), what each of them has:",
        table(["devices", "10^12 operations", "memory, 10^9 bytes"], rows),
    ]
    agreed = found.get("agreement")
    if agreed is None:
        return parts
    columns = list(next(iter(agreed.values())))
    return [
        *parts,
        "A meta-gradient of 80 digits by 8 devices against one, and what float32 itself gets "
        "wrong (relative errors of the images' gradient):",
        table(["", *columns], [[name, *map(short, of.values())] for name, of in agreed.items()]),
    ]
