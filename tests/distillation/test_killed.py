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


KILLED = os.environ.get("BILEVEL_KILLED", "rcig bptt mtt herding").split()
"""One of each way of holding state; BILEVEL_KILLED names others."""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    """In one test: what a process imports and compiles is done once for all methods."""
    start, whole, broken = starter(tmp_path), tmp_path / "whole", tmp_path / "broken"
    finish(start(whole, *KILLED))
    moments = {method: kill_at_some_moment(start, broken, method) for method in KILLED}
    finish(start(broken, *KILLED))
    for method, moment in moments.items():
        one, other = what_is_left(whole / method), what_is_left(broken / method)
        assert one.keys() == other.keys()
        for name in one:
            assert one[name] == other[name], f"{name} of {method}, killed after iteration {moment}"


def starter(tmp_path):
    """Starts runs by some methods, each in its own folder of the one given."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def start(out, *methods):
        command = [sys.executable, "-c", RUN, str(out), *methods]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    return start


def finish(process):
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said


def kill_at_some_moment(start, out, method):
    """The iteration after which the run was killed."""
    moment = int(np.random.default_rng().integers(1, ITERATIONS - 3))
    process, folder = start(out, method), out / method
    until = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < until:
        if METHODS[method].takes_steps:
            there = newest_checkpoint(folder) >= moment
        else:
            there = (folder / "config.json").exists()
        if there:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, f"{method} had ended before iteration {moment}"
    assert not (folder / "results.json").exists()
    return moment


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
