"""`kill -9` of a run by each method, and the same command again: the same bits."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from bilevel_distillation._methods import METHODS

pytestmark = pytest.mark.slow

ITERATIONS = 10
RUN = """
import sys
from pathlib import Path
from bilevel_distillation import EvaluationConfig, RunConfig, run
from bilevel_distillation._methods import METHODS

for method in sys.argv[2:]:
    steps = METHODS[method].takes_steps
    run(RunConfig(
        out=Path(sys.argv[1]) / method, method=method, iterations=10 if steps else 0, width=2,
        depth=1, batch_size=10, pool_size=2, networks=2, inner_steps=2, window=1, trajectories=2,
        start_epochs=1, match_epochs=1, samples=60, curve_points=1, checkpoint_seconds=0.0,
        evaluation=EvaluationConfig(repeats=1, steps=2),
    ))
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts runs by some methods, each in its own folder of the one given."""
    place = tmp_path_factory.mktemp("compiled")
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(place),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def begin(out, *methods):
        command = [sys.executable, "-c", RUN, str(out), *methods]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    return begin


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """A folder of runs that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole")
    process = start(out, *METHODS)
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    return out


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_goes_on_to_the_same_bits(method, start, whole, tmp_path):
    moment = int(np.random.default_rng().integers(1, ITERATIONS - 3))
    takes_steps = METHODS[method].takes_steps
    process, folder = start(tmp_path, method), tmp_path / method
    until = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < until:
        if (
            newest_checkpoint(folder) >= moment
            if takes_steps
            else (folder / "config.json").exists()
        ):
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, f"it had ended before iteration {moment}"
    assert not (folder / "results.json").exists()
    again = start(tmp_path, method)
    _, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    one, other = what_is_left(whole / method), what_is_left(folder)
    assert one.keys() == other.keys()
    for name in one:
        assert one[name] == other[name], f"{name} differs, killed after iteration {moment}"


def newest_checkpoint(folder) -> int:
    there = folder / "checkpoints"
    names = [path.name for path in there.iterdir()] if there.exists() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def what_is_left(folder):
    """All that has to be the same: times are not."""
    with np.load(folder / "distilled.npz") as file:
        found = {name: file[name].tobytes() for name in ("images", "labels", "log_temperature")}
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found["metrics"] = [
        {name: value for name, value in record.items() if name not in ("seconds", "crc32")}
        for record in records  # the checksum of a line is that of its seconds too
    ]
    found["results"] = json.loads((folder / "results.json").read_text())
    return found
