"""What faults do to a run, counted: kills, flipped bits, full disks, a second process, files that
cannot be read, and whether memory stays flat.

    python benchmarks/faults.py                      # all
    python benchmarks/faults.py flips --flips 300    # one of kills, flips, disks, processes,
                                                     # unreadable, flat

Kills are SIGKILL right before random file events; a run is killed so many times, each time going on
from what the kill before left, and then finished. Disks are memory disks of Linux that are too
small, which takes root; each run is then finished on a larger one. Always right: the same bits as
without the fault, or one sentence.
"""

import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from _report import RESULTS, table, write

Part = Literal["kills", "flips", "disks", "processes", "unreadable", "flat"]
PARTS: tuple[Part, ...] = ("flips", "processes", "unreadable", "disks", "kills", "flat")
RUN = Path(__file__).with_name("_faulty_run.py")
DROP = "-dac_override,-dac_read_search,-fowner"


@dataclass(frozen=True)
class Settings:
    """What to count.

    Attributes:
        parts: of it.
        kills: how many, in all.
        each: of them on one run before it is finished.
        flips: of bits in each file.
        files: of a checkpoint that may not be read, one at a time.
        disks: that are full, of sizes from almost nothing to almost enough.
        seed: of what is random.
    """

    parts: Annotated[tuple[Part, ...], tyro.conf.Positional] = PARTS
    kills: int = 60
    each: int = 4
    flips: int = 300
    files: int = 8
    disks: int = 12
    seed: int = 0


class Scene:
    """A whole run to compare with, and a place for others."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.seed = folder, seed
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["HF_HUB_OFFLINE"] = "1"
        self.whole = folder / "whole"
        done = self.go(self.whole, "count")
        assert done.returncode == 0, done.stderr
        self.events = int(done.stdout)

    def go(self, out: Path, *words: Any, before: tuple[str, ...] = ()) -> Any:
        command = [*before, sys.executable, str(RUN), str(out), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, errors="replace")

    def is_same(self, out: Path) -> bool:
        """The same bits as the whole run, with results and a page."""
        names = ("results.json", "distilled.npz", "preprocess.npz", "report.html", "images.png")
        if not all((out / name).exists() for name in names) or not (out / "dataset").is_dir():
            return False
        if (out / "results.json").read_bytes() != (self.whole / "results.json").read_bytes():
            return False
        files = ["distilled.npz", "preprocess.npz"]
        files += [f"history/{path.name}" for path in self.whole.glob("history/*")]
        left = [path.name for path in out.rglob("*.partial")]
        return not left and all(_same_arrays(out / name, self.whole / name) for name in files)


def kills(scene: Scene, settings: Settings) -> dict[str, Any]:
    rng, seen = random.Random(settings.seed), collections.Counter()
    while seen["kills"] < settings.kills:
        out = scene.folder / f"killed{seen['runs']}"
        for _ in range(min(settings.each, settings.kills - seen["kills"])):
            # On the average all kills of a run together come to its last event.
            done = scene.go(out, "kill", rng.randint(1, 2 * scene.events // settings.each))
            if done.returncode == -signal.SIGKILL:
                seen["kills"] += 1
                continue
            if done.returncode != 0:
                seen["ended otherwise"] += 1
                print(done.stderr[-500:])
            break  # it is complete, and has few events left
        last = scene.go(out)
        seen["runs"] += 1
        right = last.returncode == 0 and scene.is_same(out)
        seen["the same bits, results and page" if right else "WRONG"] += 1
        seen["tracebacks"] += "Traceback" in last.stderr
        shutil.rmtree(out)
    return {"file events in a run": scene.events, **seen}


def flips(scene: Scene, settings: Settings) -> dict[str, Any]:
    from bilevel_distillation import DistilledSet, load_hf
    from bilevel_distillation._artifacts import RunFolder

    def fresh() -> RunFolder:
        return RunFolder(scene.whole)

    folder = fresh()
    exported = folder.dataset
    snapshot = next((scene.whole / "history").iterdir())
    readers: dict[Path, Callable[[], Any]] = {
        next(exported.glob("data/*.parquet")): lambda: load_hf(exported),
        exported / "distilled.json": lambda: load_hf(exported),
        exported / "preprocess.npz": lambda: load_hf(exported),
        folder.distilled: lambda: DistilledSet.load_npz(folder.distilled),
        folder.preprocess: lambda: fresh().read_preprocessor(),
        snapshot: lambda: fresh().history.read(),
        folder.metrics: lambda: fresh().read_metrics(),
        folder.results: lambda: fresh().read_results(),
        folder.config: lambda: fresh().read_config(),
    }
    found: dict[str, Any] = {}
    for path, read in readers.items():
        rng, seen = random.Random(settings.seed), collections.Counter()
        content, right = path.read_bytes(), _plain(read())
        for _ in range(settings.flips):
            turned = bytearray(content)
            turned[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            path.write_bytes(turned)
            try:
                seen["the same" if _plain(read()) == right else "SILENTLY DIFFERENT"] += 1
            except (ValueError, OSError) as error:
                seen["one sentence" if path.name in str(error) else "NAMELESS"] += 1
            except Exception as error:
                seen[f"TRACEBACK {type(error).__name__}"] += 1
        path.write_bytes(content)
        found[path.relative_to(scene.whole).as_posix()] = dict(seen)
    return found


def disks(scene: Scene, settings: Settings) -> dict[str, Any]:
    disk = scene.folder / "disk"
    disk.mkdir()
    seen = collections.Counter()
    needed = sum(p.stat().st_size // 4096 + 1 for p in scene.whole.rglob("*")) * 4 * 1.2
    for number in range(settings.disks):
        size = int(needed * (number + 0.5) / settings.disks)
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)], capture_output=True
        )
        if mounted.returncode:
            return {"skipped": "a disk cannot be mounted here"}
        try:
            first = scene.go(disk / "run")
            whole = first.returncode == 0 and scene.is_same(disk / "run")
            told = first.returncode == 2 and len(first.stderr.strip().splitlines()) == 1
            said = "was enough" if whole else "a sentence" if told else "pictures said" if (
                first.returncode == 0) else "OTHERWISE"  # fmt: skip
            seen[said] += 1
            if said == "OTHERWISE":
                print(size, first.returncode, first.stderr[-1500:])
            subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
            last = scene.go(disk / "run")
            right = last.returncode == 0 and scene.is_same(disk / "run")
            seen["then the same bits, results and page" if right else "then WRONG"] += 1
            if not right:
                print(size, last.returncode, last.stderr[-1500:])
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    return dict(seen)


def processes(scene: Scene, settings: Settings) -> dict[str, Any]:
    out, seen = scene.folder / "two", collections.Counter()
    first = subprocess.Popen([sys.executable, str(RUN), str(out), "long"], stderr=subprocess.PIPE)
    _wait(lambda: list(out.glob("checkpoints/[0-9]*")))
    for words in (("long",), ()):  # the same settings, and others
        first.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        before = _times(out)
        second = scene.go(out, *words)
        told = second.returncode == 2 and "in use" in second.stderr
        seen["refused in a sentence" if told else "NOT REFUSED"] += 1
        seen["files changed"] += before != _times(out)
        first.send_signal(signal.SIGCONT)
    first.send_signal(signal.SIGTERM)
    seen["first stopped as asked"] += first.wait() == 130
    return dict(seen)


def unreadable(scene: Scene, settings: Settings) -> dict[str, Any]:
    denied = () if os.geteuid() else ("setpriv", "--bounding-set", DROP, "--inh-caps", DROP)
    os.chmod(scene.folder, 0o755)
    started, seen = scene.folder / "started", collections.Counter()
    scene.go(started, "kill", scene.events * 2 // 3)
    present = [path for path in started.glob("checkpoints/*") if path.name.isdigit()]
    steps = sorted(present, key=lambda path: int(path.name))
    assert len(steps) == 2, steps
    files = [path for path in sorted(steps[-1].rglob("*")) if path.is_file()]
    chosen = random.Random(settings.seed).sample(files, min(settings.files, len(files)))
    kinds: list[list[Path]] = [[path] for path in chosen]
    kinds += [files, [steps[-1]], [steps[-1].parent], [p for s in steps for p in s.rglob("*")]]
    for chosen in kinds:
        out = scene.folder / "unreadable"
        shutil.copytree(started, out)
        before = sorted(path.relative_to(out) for path in (out / "checkpoints").rglob("*"))
        for path in chosen:
            os.chmod(out / path.relative_to(started), 0)
        done = scene.go(out, before=denied)
        told = done.returncode == 2 and "Permission denied" in done.stderr
        seen["a sentence" if told else "OTHERWISE"] += 1
        if not told:
            print(chosen[0], done.returncode, done.stderr[-1500:])
        for path in chosen:
            os.chmod(out / path.relative_to(started), 0o755)
        after = sorted(path.relative_to(out) for path in (out / "checkpoints").rglob("*"))
        seen["checkpoints left as they were" if before == after else "CHANGED"] += 1
        last = scene.go(out)
        right = last.returncode == 0 and scene.is_same(out)
        seen["once readable the same bits" if right else "then WRONG"] += 1
        shutil.rmtree(out)
    return dict(seen)


def flat(scene: Scene, settings: Settings) -> dict[str, Any]:
    done = scene.go(scene.folder / "flat", "flat")
    assert done.returncode == 0, done.stderr
    figures = np.array(done.stdout.split(), float).reshape(-1, 3)
    names = ("megabytes", "threads", "open files")
    spans = zip(names, figures.min(0), figures.max(0), strict=True)
    return {name: f"{low:.1f} to {high:.1f}" for name, low, high in spans}


def _plain(value: Any) -> Any:
    """Something that can be compared, of all that was read."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    fields = getattr(value, "__dataclass_fields__", None)
    return _plain({name: getattr(value, name) for name in fields}) if fields else value


def _same_arrays(one: Path, other: Path) -> bool:
    with np.load(one) as a, np.load(other) as b:
        return _plain(dict(a)) == _plain(dict(b))


def _times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def _wait(done: Callable[[], Any]) -> None:
    while not done():
        time.sleep(0.1)


def main(settings: Settings) -> None:
    path = RESULTS / "faults.json"
    found = json.loads(path.read_text())["found"] if path.exists() else {}
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        scene = Scene(Path(place), settings.seed)
        for part in settings.parts:
            found[part] = globals()[part](scene, settings)
            write("faults", {"found": found})
            rows = [(name, json.dumps(value)) for name, value in found[part].items()]
            table((part, ""), rows)
            print(flush=True)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
