"""The section on what one graphics card does."""

from typing import Any

from ._paper import PAPER, TABLE_2
from ._writing import OPEN, Read, on, percent, power, short, table, where

GPU_ROWS = ("cifar10/1", "cifar10/10", "cifar10/50", "mnist/1")


def gpu(read: Read) -> list[str]:
    speed, good = read("gpu_speed") or {}, read("gpu_accuracy") or {}
    right, peers = read("gpu_right") or {}, read("gpu_peers") or {}
    card = next((on(one) for one in (speed, good, right, peers) if one), "")
    return [
        "## On a GPU",
        f"All of this in one run of minutes{card}; the paper's figures are those of its "
        "RTX A6000. (`benchmarks/on_a_gpu.py`)",
        *gpu_speed(speed), *gpu_accuracy(good), *gpu_systems(read("gpu_systems") or {}),
        *gpu_errors(right), *gpu_peers(peers),
    ]  # fmt: skip


def gpu_speed(found: dict[str, Any]) -> list[str]:
    rows = []
    for row in GPU_ROWS:
        paper, one = f"{PAPER[row][1]:.2f}", found.get(row)
        if one is None:
            rows.append([where(row), OPEN, None, None, None, paper, None])
            continue
        first = where(row)
        for way, of in one["ways"].items():
            share = of.get("share of a product's rate")
            fast = of.get("times as fast as the transcription")
            rows.append([
                first, way, short(of["seconds"]), short(of["first call, s"]),
                fast and f"{fast:.1f}", paper, share and f"{100 * share:.0f} %",
            ])  # fmt: skip
            first, paper = "", None
    heads = ["data, images per class", "way", "s / iteration", "first call, s", "times as fast",
             "paper, s", "of a product's rate"]  # fmt: skip
    parts = [
        "A meta-iteration of width 128 and batch 1,024, in turns, as one program; the "
        "transcription of the paper's Algorithm 1 in the same precision is 1. The last column: the "
        "floating-point operations that the mathematics needs, against those of a product of two "
        "square matrices in the same precision and time.",
        table(heads, rows),
    ]
    memory = [
        [where(row), short(one["program"]["compilation, s"]),
         short(one["program"]["predicted, bytes"] / 1e9),
         short(one["peak, bytes"] / 1e9) if one.get("peak, bytes") else None]
        for row in GPU_ROWS if "program" in (one := found.get(row, {}))
    ]  # fmt: skip
    heads = ["exact, float32", "compilation, s", "memory as predicted, GB", "at the peak, GB"]
    return [*parts, table(heads, memory)] if memory else parts


def gpu_accuracy(found: dict[str, Any]) -> list[str]:
    rows: list[list[str | None]] = []
    for row in ("cifar10/1", "cifar10/10"):
        one = found.get(row, {})
        authors_, random = percent(one.get("authors")), percent(one.get("random"))
        rows.append([
            where(row), percent(one.get("accuracies")) or OPEN, PAPER[row][0],
            short(one["seconds"]) if one else None, short(one["iterations"]) if one else None,
            authors_, random,
        ])  # fmt: skip
    heads = ["data, images per class", "ours", "paper", "seconds", "iterations",
             "the authors' set", "random"]  # fmt: skip
    parts = [
        "Accuracy after a distillation of minutes, compilation counted, all sets by the same "
        "judges in the same run:",
        table(heads, rows),
    ]
    for row in ("cifar10/1", "cifar10/10"):
        curve = found.get(row, {}).get("curve")
        if curve:
            heads = [where(row), *(f"{seconds:.0f} s" for _, seconds, _ in curve)]
            cells = ["one network", *(f"{100 * one:.1f}" for *_, one in curve)]
            parts.append(table(heads, [cells]))
    return parts


def gpu_systems(found: dict[str, Any]) -> list[str]:
    """The systems of table 2, each in the same share of minutes."""
    row = "cifar10/10"
    of, rows = found.get(row, {}), []
    for name in ("random", "dm", "kip", "frepo", "bptt", "rcig"):
        one = of.get(name, {})
        peak = one.get("peak, bytes")
        rows.append([
            name, percent(one.get("accuracies")) or OPEN,
            f"{one['iterations']:,}" if one else None, short(one["seconds"]) if one else None,
            short(peak / 1e9) if peak else None, TABLE_2[row].get(name),
        ])  # fmt: skip
    heads = ["system", "ours", "iterations", "seconds", "GB at the peak", "paper"]
    return [
        f"The systems of table 2, {where(row)}, with the same seconds for each, compilation "
        "counted, at constant rates; judged by the paper's network, the common recipe. "
        "(`benchmarks/on_a_gpu.py --minutes 3 --stages systems_cifar10_10`)",
        table(heads, rows),
    ]


def gpu_errors(found: dict[str, Any]) -> list[str]:
    if not found:
        return [f"Errors against float64 on the card: {OPEN}."]
    parts = ["Relative errors against float64 on the same card. RCIG's meta-gradient:"]
    rows = [
        [name, way, precision, power(error), power(of_images), steps]
        for name, case in found.get("meta_gradient", {}).items()
        for way, precision, error, of_images, steps, _ in case["rows"]
    ]
    heads = ["distilled images", "way", "precision", "error", "of the images", "steps"]
    parts.append(table(heads, rows) if rows else f"{OPEN.capitalize()}.")
    if "toolkit" in found:
        rows = [
            [problem, precision, power(rtol, 0), power(error), power(said), power(true)]
            for problem, precision, rtol, error, said, true, *_ in found["toolkit"]["rows"]
        ]
        heads = ["problem", "precision", "rtol", "error", "residual said", "in float64"]
        parts += ["The toolkit's hypergradients by conjugate gradients:", table(heads, rows)]
    return parts


def gpu_peers(found: dict[str, Any]) -> list[str]:
    if not found:
        return [f"Beside other libraries: {OPEN}."]
    names, rows = ("jaxopt", "optimistix"), []
    for one in found["peers"]["results"]:
        by = {row["contestant"]: row for row in one["rows"]}
        ours = [by[name] for name in ("bilevel", "bilevel, jit") if name in by]
        if ours:
            best = min(ours, key=lambda row: row["milliseconds"])
            cells = [f"{by[name]['ratio']:.2f}" if name in by else None for name in names]
            rows.append([one["problem"], short(one["parameters"]), short(best["milliseconds"]),
                         power(best["error"]), *cells])  # fmt: skip
    heads = ["problem", "parameters", "ours, ms", "our error", *names]
    return ["One hypergradient, and how many times as long others take:", table(heads, rows)]
