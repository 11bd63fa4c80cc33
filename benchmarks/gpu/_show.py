"""The tables that stand last: what a reader has to see if nothing else came back."""

from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from _report import table

from ._task import read


def show(out: Path) -> None:
    """All that the result files hold."""
    for name, section in (("gpu_right", _right), ("gpu_speed", _speed),
                          ("gpu_accuracy", _accuracy), ("gpu_systems", _systems),
                          ("gpu_peers", _peers)):  # fmt: skip
        held = read(out / f"{name}.json")
        if held:
            print(f"\n{name}, {held['machine']['device']}")
            section(held)


def _right(held: dict[str, Any]) -> None:
    if "toolkit" in held:
        table(held["toolkit"]["columns"], [_rounded(row) for row in held["toolkit"]["rows"]])
    for images, case in held.get("meta_gradient", {}).items():
        print(f"\nRCIG's meta-gradient, {images} images, against {case['reference']}")
        table(case["columns"], [_rounded(row) for row in case["rows"]])
        if "one program and parts" in case:
            print("one program and parts:", _said(case["one program and parts"]))


def _speed(held: dict[str, Any]) -> None:
    rows = []
    for row, one in held.items():
        if row == "machine":
            continue
        for name, of in one["ways"].items():
            rows.append([
                row, name, of["first call, s"], 1e3 * of["seconds"],
                of.get("times as fast as the transcription", ""),
                of.get("share of a product's rate", ""),
            ])  # fmt: skip
    table(["row", "way", "first call, s", "ms", "times as fast", "of a product's rate"], rows)
    for row, one in held.items():
        if row != "machine":
            print(row, *(_said(one[k]) for k in ("program", "in a row") if k in one), sep=": ")
            print(f"{row}: peak {one.get('peak, bytes')} bytes")
            parts = list(one.get("parts, tensorfloat32", {}).items())[:6]
            print(*(f"{name} {n:.0f} x, {1e3 * s:.3g} ms" for name, (n, s) in parts), sep="; ")


def _accuracy(held: dict[str, Any]) -> None:
    rows = []
    for row, one in held.items():
        if row == "machine":
            continue
        rows += [
            [row, kind, *_spread(one[kind])]
            for kind in ("accuracies", "authors", "random")
            if one.get(kind)
        ]
        print(f"{row}: {one['iterations']} of {one['planned']} meta-iterations, "
              f"{one['seconds']:.0f} s")  # fmt: skip
        for iteration, seconds, result in one.get("curve", []):
            rows.append([row, f"after {seconds:.0f} s ({iteration})", 100 * result, ""])
    table(["row", "what", "%", "deviation"], rows)


def _systems(held: dict[str, Any]) -> None:
    rows = []
    for row, methods in held.items():
        if row == "machine":
            continue
        for method, one in methods.items():
            accuracy = _spread(one["accuracies"]) if "accuracies" in one else ("", "")
            peak = one["peak, bytes"]
            rows.append([row, method, *accuracy, one["iterations"], one["seconds"],
                         "" if peak is None else peak / 1e6])  # fmt: skip
    table(["row", "system", "%", "deviation", "iterations", "seconds", "MB"], rows)


def _peers(held: dict[str, Any]) -> None:
    rows = [
        [one["problem"], row["contestant"], row["error"], row["milliseconds"], row["ratio"]]
        for one in held["peers"]["results"]
        for row in one["rows"]
    ]
    table(["problem", "contestant", "error", "ms", "times ours"], rows)
    for one in held["peers"]["results"]:
        if "failed" in one:
            print(one["problem"], "is left out:", one["failed"])


def _spread(fractions: list[float]) -> tuple[float, float]:
    return 100 * fmean(fractions), 100 * pstdev(fractions)


def _rounded(row: list[Any]) -> list[Any]:
    return [f"{cell:.2g}" if isinstance(cell, float) else cell for cell in row]


def _said(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )
