"""The section on DD-Ranking's own package."""

from statistics import fmean

from ._writing import OPEN, Read, on, short, spread, table


def ranking(read: Read) -> list[str]:
    parts = [
        "## By DD-Ranking's own package",
        "A distilled CIFAR-10 with hard labels, by the `ddranking` package (Li et al., 2025) and "
        "by our judge, beside random images by the same judge. DD-Ranking's ConvNet-3 with batch "
        "normalisation and CutMix takes the best of five rates by test accuracy, for the set and "
        "for random images alike; ours chooses nothing. (`benchmarks/dd_ranking.py`)",
    ]
    found = read("dd_ranking")
    if found is None:
        return [*parts, f"{OPEN.capitalize()}."]
    asked, rows = found["settings"], []
    for judge in ("DD-Ranking", "ours"):
        of = found[judge]
        gain = fmean(of["set"]) - fmean(of["random"])
        rows.append([judge, spread(of["set"]), spread(of["random"]), f"{gain:+.1f}"])
    return [
        *parts,
        f"`{found['set']['name']}`, {short(found['set']['images'])} images{on(found)}: "
        f"{asked['epochs']} epochs of DD-Ranking's, by default 300, and its last one counts; ours "
        f"of width {asked['width']}, {short(asked['steps'])} steps; {asked['runs']} networks each.",
        table(["judge", "the set, %", "random images, %", "improvement"], rows),
    ]
