"""The section on DD-Ranking's own package."""

from statistics import fmean

from ._writing import OPEN, Read, counted, on, short, spread, table


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
    asked, of, rows = found["settings"], found["set"], []
    for judge in ("DD-Ranking", "ours"):
        met = found[judge]
        gain = fmean(met["set"]) - fmean(met["random"])
        rows.append([judge, spread(met["set"]), spread(met["random"]), f"{gain:+.1f}"])
    return [
        *parts,
        f"The set: {of['images']} images by {of['method'].upper()}, "
        f"{short(of['iterations'])} meta-iterations at width {of['width']}, "
        f"{short(of['processor_seconds'])} s of all processors{on(found)}. DD-Ranking's networks "
        f"trained for {asked['epochs']} epochs, by default 300, of which the last one counts; ours "
        f"of width {asked['width']}, {short(asked['steps'])} steps; "
        f"{counted(asked['runs'], 'network')} each. Distilled images suit the kind of network that "
        "they were made with, here one without normalisation.",
        table(["judge", "the set, %", "random images, %", "improvement"], rows),
    ]
