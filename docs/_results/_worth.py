"""What a set is worth: the section, and its pictures, which need nothing but Python."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from statistics import fmean
from typing import Any

from ._paper import NAMES
from ._writing import OPEN, Read, on, short, spread, table

DATA = ("mnist", "cifar10")
JUDGES = ("convnet, soft", "convnet, hard", "resnet18, soft", "resnet18, hard")
COLOURS = ("#3f51b5", "#e64a19", "#2e7d32", "#8e24aa", "#00838f", "#6d4c41", "#f9a825")
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 420, 300, 46, 30, 12, 44

Points = list[tuple[float, float]]


def worth(read: Read) -> list[str]:
    parts = [
        "## What a distilled set is worth",
        "Accuracy against the bytes of a set, labels included, and against the processor seconds "
        "of making it and training one network on it. A distilled set is stored in 16 bits a "
        "number; real images, random ones or chosen by herding, as PNG or JPEG files (quality 75), "
        "one at least of each class. Chosen images have hard labels. Nothing is selected. "
        "(`benchmarks/worth.py`)",
    ]
    for dataset in DATA:
        found = read(f"worth_{dataset}")
        if found is None:
            parts.append(f"{NAMES[dataset]}: {OPEN}.")
            continue
        parts += _one(dataset, found)
    return parts


def _one(dataset: str, found: dict[str, Any]) -> list[str]:
    asked, sets = found["settings"], found["sets"]
    told = [key for key in JUDGES if any(key in one["judged"] for one in sets.values())]
    rows = []
    for name, one in sets.items():
        judged = one["judged"]
        if not judged:
            continue
        sizes = sorted({of["bytes"] for of in judged.values()})
        rows.append([
            name, short(sizes[-1]), f"{one['seconds']:.0f}",
            *(_cell(judged.get(key)) for key in told),
        ])  # fmt: skip
    heads = ["set", "bytes", "seconds to make", *told]
    return [
        f"{NAMES[dataset]}{on(found)}: {asked['seconds']:.0f} processor seconds for each "
        f"distillation at width {asked['distilled_width']}; judges of {asked['steps']} steps, the "
        f"ConvNet of width {asked['width']}, the ResNet-18 of width {asked['resnet_width']}, "
        f"{asked['networks']} of each. Cells: accuracy in %, and seconds to train one network.",
        table(heads, rows),
        *_crossings(sets, told),
        f"![Accuracy against bytes and against computation, {NAMES[dataset]}]"
        f"(pictures/worth_{dataset}.svg)",
    ]


def _cell(of: dict[str, Any] | None) -> str | None:
    if of is None:
        return None
    return f"{spread([100 * one for one in of['accuracies']])} ({of['training, s']:.0f} s)"


def _crossings(sets: Mapping[str, Any], told: Sequence[str]) -> list[str]:
    """From how many bytes, and seconds, on chosen images are as good as a distilled set."""
    said = []
    for key in told:
        network = key.split(",")[0]
        for name, one in sets.items():
            if family(name) in CHOSEN or key not in one["judged"]:
                continue
            of = one["judged"][key]
            height = fmean(of["accuracies"])
            ways = {}
            for what, unit in (("bytes", "bytes"), ("seconds", "s")):
                lines = lines_of(sets, f"{network}, hard", what)
                reached = {f: reach(p, height) for f, p in lines.items() if f in CHOSEN}
                known = {f: at for f, at in reached.items() if at is not None}
                best = min(known, key=lambda f: known[f]) if known else None
                ways[what] = f"{short(round(known[best]))} {unit} ({best})" if best else None
            size, time = of["bytes"], one["seconds"] + of["training, s"]
            said.append([f"{name}, {key}", f"{100 * height:.1f}", short(size), ways["bytes"],
                         f"{time:.0f}", ways["seconds"]])  # fmt: skip
    if not said:
        return []
    return [
        "Where the lines cross: the fewest bytes, and seconds, at which chosen images are as good "
        "(between two sizes by a straight line over the logarithm); a dash where none of the sizes "
        "that were measured is.",
        table(["distilled", "%", "its bytes", "chosen: bytes", "its seconds", "chosen: seconds"],
              said),
    ]  # fmt: skip


CHOSEN = ("random png", "random jpeg", "herding png", "herding jpeg", "all data")


def family(name: str) -> str:
    """`random png` of `random png, 4 a class`."""
    return name.split(",")[0]


def lines_of(sets: Mapping[str, Any], key: str, what: str) -> dict[str, Points]:
    """Of each kind of set, (bytes or seconds, accuracy), ascending."""
    lines: dict[str, Points] = {}
    for name, one in sets.items():
        of = one["judged"].get(key)
        if of is not None:
            at = of["bytes"] if what == "bytes" else one["seconds"] + of["training, s"]
            lines.setdefault(family(name), []).append((at, fmean(of["accuracies"])))
    return {name: sorted(points) for name, points in lines.items()}


def reach(points: Points, height: float) -> float | None:
    """Where a line first reaches a height, straight over the logarithm between the best point so
    far and the next better one; None where it never does.
    """
    best: tuple[float, float] | None = None
    for at, value in points:
        if value >= height:
            if best is None or value == height:
                return at
            share = (height - best[1]) / (value - best[1])
            return math.exp(math.log(best[0]) + share * (math.log(at) - math.log(best[0])))
        if best is None or value > best[1]:
            best = (at, value)
    return None


def pictures(read: Read) -> dict[str, str]:
    """SVG by file name."""
    drawn = {}
    for dataset in DATA:
        found = read(f"worth_{dataset}")
        if found is not None:
            drawn[f"worth_{dataset}.svg"] = _picture(found["sets"])
    return drawn


def _picture(sets: Mapping[str, Any]) -> str:
    """A panel for each judge (rows) and for bytes and seconds (columns)."""
    keys = [k for k in JUDGES if any(k in one["judged"] for one in sets.values())]
    names = list(dict.fromkeys(map(family, sets)))
    parts = []
    for row, key in enumerate(keys):
        for column, what in enumerate(("bytes", "seconds")):
            lines = lines_of(sets, key, what)
            if key.endswith("soft"):  # chosen images have hard labels, and stand beside
                hard = lines_of(sets, key.replace("soft", "hard"), what)
                lines |= {name: hard[name] for name in hard if name not in lines}
            panel = _panel(lines, names, f"{key} labels", what)
            parts.append(f'<g transform="translate({column * WIDTH},{row * HEIGHT})">{panel}</g>')
    legend = []
    for i, name in enumerate(names):
        x, y = 20 + 150 * (i % 5), HEIGHT * len(keys) + 16 + 18 * (i // 5)
        colour = COLOURS[i % len(COLOURS)]
        legend.append(f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{colour}"/>'
                      f'<text x="{x + 9}" y="{y}">{escape(name)}</text>')  # fmt: skip
    height = HEIGHT * len(keys) + 34 + 18 * ((len(names) - 1) // 5)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {height}" '
        'font-family="sans-serif" font-size="11">'
        f'<rect width="{2 * WIDTH}" height="{height}" fill="white"/>'
        f"{''.join(parts)}{''.join(legend)}</svg>\n"
    )


def _panel(lines: dict[str, Points], names: Sequence[str], title: str, what: str) -> str:
    points = [point for of in lines.values() for point in of]
    low, high = (f(math.log10(max(x, 1e-3)) for x, _ in points) for f in (min, max))
    bottom, top = (f(y for _, y in points) for f in (min, max))
    low, high = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
    bottom, top = math.floor(10 * bottom) / 10, math.ceil(10 * top + 1e-9) / 10

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(max(x, 1e-3)) - low) / (high - low)
        up = (y - bottom) / (top - bottom)
        return (round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
                round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1))  # fmt: skip

    drawn = [f'<text x="{LEFT}" y="18" font-weight="bold">{escape(title)}</text>']
    for power in range(low, high + 1):
        x, _ = place(10**power, bottom)
        drawn.append(f'<line x1="{x}" y1="{TOP}" x2="{x}" y2="{HEIGHT - BOTTOM}" stroke="#ddd"/>'
                     f'<text x="{x}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">'
                     f"{10**power:,.15g}</text>")  # fmt: skip
    for tenth in range(round(10 * bottom), round(10 * top) + 1):
        _, y = place(10**low, tenth / 10)
        drawn.append(f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="#ddd"/>'
                     f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{10 * tenth} %</text>'
                     )  # fmt: skip
    unit = "bytes stored" if what == "bytes" else "processor seconds, making and training"
    drawn.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 14}" text-anchor="middle">{unit}'
                 "</text>")  # fmt: skip
    for name, of in lines.items():
        colour = COLOURS[names.index(name) % len(COLOURS)]
        places = [place(*point) for point in of]
        path = "M" + " L".join(f"{x} {y}" for x, y in places)
        drawn.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        drawn += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>' for x, y in places]
    return "".join(drawn)
