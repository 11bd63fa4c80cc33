"""Sections on all systems: table 2 by system, and what a set is worth."""

from statistics import fmean
from typing import Any

from ._paper import NAMES, TABLE_2
from ._writing import OPEN, Read, counted, on, spread, table

ROWS = (("digits", 1), ("digits", 10), ("mnist", 1), ("mnist", 10), ("cifar10", 10))
LITERATURE = ("paper", "wide-instance")
TOLD = tuple(
    f"{judge}, {labels}"
    for judge in ("paper", "wide-instance", "resnet18", "vgg11", "alexnet")
    for labels in ("soft", "hard")
)


def systems(read: Read) -> list[str]:
    """All systems on one engine, under the same two judges, with the same time."""
    parts: list[str] = []
    for dataset, ipc in ROWS:
        found = read(f"systems_{dataset}_{ipc}")
        title = f"{NAMES[dataset]}, {ipc} image{'s' if ipc > 1 else ''} per class"
        parts += [f"{title}: {OPEN}."] if found is None else _one(title, f"{dataset}/{ipc}", found)
    return [
        "## All systems (table 2)",
        "The systems that the paper compares, BPTT, and real images chosen in seconds, on one "
        "engine, with the same time. Two judges by one recipe, on the labels of the set and on "
        "hard ones: the paper's (a network whose width doubles at each layer, no normalisation) "
        "and that of later work (128 channels in every layer, instance normalisation); those of "
        "table 3 (ResNet-18 and VGG-11 with batch normalisation, AlexNet) have a table of "
        "their own, where they were asked. Nothing is selected, and test images are asked once, "
        "by networks at the end of their training. Mean and deviation are over seeds, of the mean "
        "over the networks of each; a figure without a deviation is of one seed. A "
        "short time favours what converges fast: at 10 images a class DC takes some 60 iterations "
        "on digits and 15 on MNIST, its paper 1,000; it begins as real images, not as the noise of "
        "its preset. A run that ends well before its time had its length from a pilot that went "
        "slower. What only chooses images takes no steps, and its seconds have no "
        "bound. On CIFAR-10 nearly all of the memory is taken before the first step, by whitening "
        "50,000 images: random images ask for as much. On MNIST MTT is left out: its trajectories "
        "alone take many times the time of the others. The paper's figures are by the authors' own "
        "networks and recipes, after hours on a card. "
        "(`benchmarks/systems.py`)",
        *parts,
    ]


def _one(title: str, row: str, found: dict[str, Any]) -> list[str]:
    records = found["records"]
    of: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        of.setdefault(record["method"], []).append(record)
    asked = [key for key in TOLD if any(key in r["accuracies"] for r in records)]
    told = [key for key in asked if key.startswith(LITERATURE)]
    paper = TABLE_2.get(row, {})
    rows = []
    for name, own in of.items():
        memory = found["memory"].get(name)
        iterations, seconds = (fmean(r[key] for r in own) for key in ("iterations", "seconds"))
        rows.append([
            name, *(_over_seeds(own, key) for key in told),
            f"{seconds:.0f} ({iterations:.0f})" if iterations else f"{seconds:.0f}",
            None if memory is None else f"{memory / 1e6:.0f}",
            *([paper.get(name)] if paper else []),
        ])  # fmt: skip
    if told:
        rows.sort(key=lambda row: float((row[1] or "0").split()[0]))
    seeds = {len(own) for own in of.values()}
    others = [key for key in asked if key not in told]
    one = records[0]
    clock = "seconds of the processors" if one["clock"] == "processor" else "seconds"
    heads = ["system", *told, "seconds (iterations)", "MB", *(["in the paper"] if paper else [])]
    return [
        f"{title}: {one['budget']:.0f} {clock} for each, compilation not counted{on(found)}; "
        f"{_count(seeds, 'seed')}, {_judged(records, told)}.",
        table(heads, rows),
        *_not_better(of, told),
        *_order(of, paper, told),
        *_by_others(title, of, others),
    ]


def _not_better(of: dict[str, list[dict[str, Any]]], told: list[str]) -> list[str]:
    """Which systems random images stand beside or above, judged on sets of the same seeds."""
    found = []
    for name, own in of.items():
        keys = [
            key for key in told
            if (pairs := _beside(own, of.get("random", []), key)) and fmean(pairs) <= 0
        ]  # fmt: skip
        if keys and name != "random":
            found.append(f"{name} ({'; '.join(keys)})")
    return [f"Not better than random images: {', '.join(found)}."] if found else []


def _beside(own: list[dict[str, Any]], random: list[dict[str, Any]], key: str) -> list[float]:
    """By how much more, for each seed that both have."""
    theirs = {r["seed"]: fmean(r["accuracies"][key]) for r in random if key in r["accuracies"]}
    return [
        fmean(r["accuracies"][key]) - theirs[r["seed"]]
        for r in own if key in r["accuracies"] and r["seed"] in theirs
    ]  # fmt: skip


def _by_others(title: str, of: dict[str, list[dict[str, Any]]], told: list[str]) -> list[str]:
    """The same sets by networks of other kinds."""
    if not told:
        return []
    rows = [[name, *(_over_seeds(own, key) for key in told)] for name, own in of.items()]
    rows.sort(key=lambda row: float((row[1] or "0").split()[0]))
    records = [record for own in of.values() for record in own]
    return [
        f"{title}, the same sets by the networks of table 3, {_judged(records, told)}:",
        table(["system", *told], rows),
    ]


def _judged(records: list[dict[str, Any]], told: list[str]) -> str:
    """How many networks of which kind."""
    networks = {
        len(r["accuracies"][key]) for r in records for key in told if key in r["accuracies"]
    }
    names = list(dict.fromkeys(key.split(",")[0] for key in told))
    held: dict[str, Any] = {}
    for record in records:
        held = record.get("judges", {}) | held
    said = "; ".join(
        f"{name}: width {held[name]['width'] or 'its own'}, {held[name]['steps']} steps"
        for name in names if name in held
    )  # fmt: skip
    return f"{_count(networks, 'network')} a set by each judge ({said})"


def _over_seeds(records: list[dict[str, Any]], key: str) -> str | None:
    means = [100 * fmean(r["accuracies"][key]) for r in records if key in r["accuracies"]]
    return spread(means) if means else None


def _count(counts: set[int], what: str) -> str:
    low, high = min(counts, default=0), max(counts, default=0)
    return counted(low, what) if low == high else f"{low} to {high} {what}s"


def _order(
    of: dict[str, list[dict[str, Any]]], paper: dict[str, str], told: list[str]
) -> list[str]:
    """Pairs of systems that stand the other way round here than in the paper."""
    key = told[0] if told else ""
    ours = {
        name: fmean(fmean(r["accuracies"][key]) for r in own)
        for name, own in of.items()
        if name in paper and all(key in r["accuracies"] for r in own)
    }
    theirs = {name: float(paper[name].split()[0]) for name in ours}
    names = sorted(ours, key=lambda name: -theirs[name])
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    turned = [f"{b} before {a}" for a, b in pairs if ours[b] > ours[a] and theirs[a] > theirs[b]]
    if not pairs:
        return []
    return [
        f"Of {len(pairs)} pairs of systems in the paper's row, {len(pairs) - len(turned)} stand in "
        f"the same order here (by {key})"
        + (f"; the other way round are {', '.join(turned)}." if turned else ".")
    ]
