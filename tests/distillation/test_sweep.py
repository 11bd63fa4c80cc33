"""A sweep: all combinations, each once, whatever happens to one of them."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from bilevel_distillation import (
    Accuracies,
    EvaluationConfig,
    Interrupted,
    OverSeeds,
    Reporter,
    RunConfig,
    sweep,
)
from bilevel_distillation._app import _sweep as module
from bilevel_distillation._app._cli import main
from bilevel_distillation._app._sweep import read_vary
from bilevel_distillation._artifacts import hold_lock

TINY = RunConfig(
    dataset="digits", method="frepo", iterations=2, batch_size=16, width=4, depth=2, pool_size=2,
    pool_steps=1, curve_points=1, evaluation=EvaluationConfig(repeats=1, steps=2),
)  # fmt: skip


class Listener(Reporter):
    def __init__(self):
        self.said = []

    def say(self, message):
        self.said.append(message)


@pytest.fixture
def runs(monkeypatch):
    """In place of `run`: accuracies by the settings, and a list of what was run."""
    asked = []

    def run(config, reporter=None):
        asked.append(config)
        if config.width == 3:
            raise ValueError("width=3 is odd: give another.")
        if config.width == 5:
            raise RuntimeError("out of memory")
        worth = 0.1 * config.ipc + 0.02 * config.seed
        return Accuracies((worth, worth + 0.02), (0.01,))

    monkeypatch.setattr(module, "run", run)
    return asked


def test_all_combinations_are_run_and_gathered_over_seeds(runs, tmp_path):
    config = replace(TINY, out=tmp_path / "sweep")
    results = sweep(config, {"ipc": [1, 2], "evaluation.steps": ["7"], "seed": range(3)})
    assert [(one.ipc, one.seed, one.evaluation.steps) for one in runs] == [
        (ipc, seed, 7) for ipc in (1, 2) for seed in range(3)
    ]
    assert runs[1].out == tmp_path / "sweep" / "ipc=1,evaluation.steps=7,seed=1"
    assert runs[1].evaluation.repeats == 1 and runs[1].width == 4
    one, other = results.settings
    assert one.varied == {"ipc": 1, "evaluation.steps": 7} and one.seeds == 3
    assert one.distilled.mean == pytest.approx(0.13)
    assert one.distilled.deviation == pytest.approx(np.std([0.11, 0.13, 0.15]))
    assert other.distilled.mean == pytest.approx(0.23)
    held = json.loads((config.out / "results.json").read_text())
    assert held == results.to_json() and list(held) == ["settings", "runs"]
    assert list(held["settings"][0]) == ["varied", "seeds", "failed", "distilled", "random_subset"]
    assert held["settings"][1]["distilled"]["mean"] == pytest.approx(0.23)
    assert held["runs"]["ipc=2,evaluation.steps=7,seed=1"] == {
        "varied": {"ipc": 2, "evaluation.steps": 7, "seed": 1},
        "distilled": [0.22, 0.24], "random_subset": [0.01],
    }  # fmt: skip
    with (config.out / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["ipc"] for row in table] == ["1", "2"]
    assert float(table[1]["distilled_mean"]) == pytest.approx(0.23)
    assert table[0]["random_subset_deviation"] == "0.0" and table[0]["failed"] == "0"


def test_a_run_that_fails_is_said_and_the_others_go_on(runs, tmp_path):
    listener = Listener()
    config = replace(TINY, out=tmp_path)
    results = sweep(config, {"width": [4, 3, 5, 6], "seed": [1]}, reporter=listener)
    assert "width=3,seed=1: width=3 is odd: give another." in listener.said
    assert "width=5,seed=1: RuntimeError: out of memory" in listener.said
    rows = [(row.varied["width"], row.seeds, row.failed) for row in results.settings]
    assert rows == [(4, 1, 0), (3, 0, 1), (5, 0, 1), (6, 1, 0)]
    assert results.settings[1].distilled == OverSeeds(None, None)
    assert results.settings[0].distilled.deviation is None  # of one seed
    assert results.runs["width=3,seed=1"].error == "width=3 is odd: give another."
    held = json.loads((tmp_path / "results.json").read_text())
    assert held["settings"][1]["distilled"] == {"mean": None, "deviation": None}
    assert held["runs"]["width=3,seed=1"] == {
        "varied": {"width": 3, "seed": 1}, "error": "width=3 is odd: give another."
    }  # fmt: skip


def test_an_interruption_ends_the_sweep_and_keeps_what_was_found(runs, tmp_path, monkeypatch):
    fake = module.run

    def run(config, reporter=None):
        if config.seed == 1:
            raise Interrupted("stopped after iteration 1; the same command goes on from there.")
        return fake(config)

    monkeypatch.setattr(module, "run", run)
    with pytest.raises(Interrupted, match="goes on"):
        sweep(replace(TINY, out=tmp_path), {"seed": [0, 1, 2]})
    assert [one.seed for one in runs] == [0]
    assert list(json.loads((tmp_path / "results.json").read_text())["runs"]) == ["seed=0"]


def test_float64_in_one_run_does_not_leak_into_the_next(tmp_path, monkeypatch):
    seen = []

    def run(config, reporter=None):
        seen.append(jax.config.read("jax_enable_x64"))
        if config.float64:
            jax.config.update("jax_enable_x64", True)
        return Accuracies((1.0,), (1.0,))

    monkeypatch.setattr(module, "run", run)
    sweep(replace(TINY, out=tmp_path), {"float64": ["true", "false"]})
    assert seen == [False, False] and not jax.config.read("jax_enable_x64")


def test_a_sweep_of_real_runs_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    command = ["sweep", "--method", "frepo", "--iterations", "2", "--batch-size", "16", "--width",
               "4", "--depth", "2", "--pool-size", "2", "--pool-steps", "1", "--curve-points", "1",
               "--evaluation.repeats", "1", "--evaluation.steps", "2", "--out",
               str(tmp_path)]  # fmt: skip
    main([*command, "--vary", "seed=0,1"])
    assert "2 │" in capsys.readouterr().out
    before = json.loads((tmp_path / "results.json").read_text())
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("seed=*/metrics.jsonl")}
    assert len(times) == 2
    (tmp_path / "results.json").unlink()
    (tmp_path / "seed=1" / "results.json").unlink()  # stopped before its end
    with pytest.raises(SystemExit) as ending:
        main([*command, "--vary", "seed=0,1", "--vary", "ipc=1,200"])
    assert ending.value.code == 1
    said = capsys.readouterr()
    assert "seed=0,ipc=200: ipc is 200 but class '8'" in said.out
    assert "2 of 4 runs failed: seed=0,ipc=200; seed=1,ipc=200." in said.err
    main([*command, "--vary", "seed=0,1"])
    assert f"{tmp_path / 'seed=0'} holds this run, complete." in capsys.readouterr().out
    assert json.loads((tmp_path / "results.json").read_text()) == before
    path = tmp_path / "seed=0" / "metrics.jsonl"
    assert path.stat().st_mtime_ns == times[path]


@pytest.mark.slow
def test_processes_of_their_own_find_the_same(tmp_path):
    # Runs that fail come first: their processes have grown much by the end of the next.
    vary = {"ipc": [200, 1], "seed": [0, 1]}
    one, other = (
        sweep(replace(TINY, out=tmp_path / str(jobs)), vary, jobs=jobs) for jobs in (1, 2)
    )
    assert list(one.runs) == list(other.runs)
    assert one.settings[0] == other.settings[0] and one.settings[0].failed == 2
    for name in ("distilled", "random_subset"):
        means = [getattr(results.settings[1], name).mean for results in (one, other)]
        assert means[0] == pytest.approx(means[1], abs=0.02)  # compiled in another way


def test_a_sweep_that_another_process_is_at_work_on_is_refused(runs, tmp_path):
    lock = hold_lock(tmp_path / ".lock", "held")
    assert lock is not None
    with pytest.raises(ValueError, match="is in use, another process is going on with this sweep"):
        sweep(replace(TINY, out=tmp_path), {"seed": [0]})
    lock.release()
    assert runs == []
    sweep(replace(TINY, out=tmp_path), {"seed": [0]})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_the_processes_of_a_killed_sweep_end_with_it(tmp_path):
    out = tmp_path / "sweep"
    command = [sys.executable, "-m", "bilevel_distillation", "sweep", "--method", "frepo",
               "--iterations", "1000000", "--batch-size", "16", "--width", "4", "--depth", "2",
               "--pool-size", "2", "--pool-steps", "1", "--curve-points", "1", "--vary",
               "seed=0,1", "--jobs", "2", "--out", str(out)]  # fmt: skip
    parent = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    patient(lambda: len(list(out.glob("*/metrics.jsonl"))) == 2)
    assert len(session(parent.pid)) > 2
    parent.kill()
    parent.wait()
    patient(lambda: not session(parent.pid))
    assert all((out / f"seed={seed}" / "checkpoints").is_dir() for seed in (0, 1))


def session(leader):
    """The processes of a session that are not over."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, number = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(number) == leader and state != "Z":
            found.append(path.parent.name)
    return found


def patient(done, seconds=300):
    latest = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < latest
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of Dask when its processes are killed
def test_a_cluster_finishes_the_runs_of_a_worker_that_was_killed(tmp_path):
    distributed = pytest.importorskip("distributed")
    config = replace(TINY, out=tmp_path / "sweep", iterations=200, checkpoint_seconds=0.1)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        killed = []

        def kill():
            patient(lambda: list(config.out.glob("*/checkpoints/[0-9]*")))
            pid = next(iter(cluster.workers.values())).process.process.pid
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

        killer = threading.Thread(target=kill)
        killer.start()
        results = sweep(config, {"seed": [0, 1, 2]}, cluster=cluster.scheduler_address)
        killer.join()
    assert len(killed) == 1 and results.settings[0].seeds == 3
    assert results.settings[0].failed == 0
    # On this machine the same folders are complete, and only read.
    assert sweep(config, {"seed": [0, 1, 2]}) == results


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense", "tcp://127.0.0.1"])
def test_a_cluster_that_does_not_answer_is_said(runs, tmp_path, address):
    pytest.importorskip("distributed")
    with pytest.raises(ValueError, match=f"cluster='{address}' does not answer .*: give the"):
        sweep(replace(TINY, out=tmp_path), {"seed": [0]}, cluster=address)
    assert runs == []


def test_a_cluster_needs_its_package(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"install bilevel-distillation\[cluster\]"):
        sweep(replace(TINY, out=tmp_path), {"seed": [0]}, cluster="tcp://127.0.0.1:1")
    assert runs == []


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("ipc=1,10", [1, 10]), ("rtol=1e-2,1", [0.01, 1.0]), ("zca=true,false", [True, False]),
        ("method=rcig,vig", ["rcig", "vig"]), ("width=8,none", [8, None]),
        ("devices=all,2", ["all", 2]), ("batch-size=64", [64]), ("evaluation.norm=none", ["none"]),
        ("evaluation.augment=false", [False]), ("dataset=a/b,digits", ["a/b", "digits"]),
        ("samples=100,none", [100, None]),
    ],
)  # fmt: skip
def test_words_become_values_of_the_settings_type(runs, tmp_path, word, expected):
    results = sweep(replace(TINY, out=tmp_path), read_vary([word]))
    (name,) = results.settings[0].varied
    found = [row.varied[name] for row in results.settings]
    assert found == expected and [type(v) for v in found] == [type(v) for v in expected]
    folders = [one.out for one in runs]
    assert len(set(folders)) == len(folders) and all(f.parent == tmp_path for f in folders)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["sead=1"], r"vary 'sead' is no setting of a run that can vary: did you mean 'seed'\?"),
        (["out=a,b"], r"vary 'out' is no setting of a run that can vary"),
        (["seed"], "vary 'seed' names no values: give e.g. seed=0,1,2."),
        (["seed="], "vary 'seed=' names no values"),
        (["seed=0", "seed=1"], "vary names seed twice: give all its values at once."),
        (["batch-size=8", "batch_size=9"], "vary names a setting twice .*: give all its values"),
        (["seed=0,0"], "vary seed has 0 twice: give each value once."),
        (["seed=0,"], "vary seed='' is not of its type: give a whole number."),
        (["ipc=many"], "vary ipc='many' is not of its type: give a whole number."),
        (["width=wide"], "vary width='wide' is not .*: give a whole number or none."),
        (["flip=perhaps"], "vary flip='perhaps' is not .*: give true or false or none."),
        (["method=rcig,magic"], "method='magic' is not known: choose one of vig, cig, rig, "),
        (["norm=none,magic"], "vary norm='magic' is not .*: give none or batch or instance "),
        (["ipc=1,0"], "ipc=0 is too small: give 1 or more."),
        ([], "vary is empty: give a setting and its values, e.g. seed=0,1,2."),
    ],
)
def test_mistakes_are_said_before_anything_runs(runs, tmp_path, words, sentence):
    with pytest.raises(ValueError, match=sentence):
        sweep(replace(TINY, out=tmp_path / "new"), read_vary(words))
    assert runs == [] and not (tmp_path / "new").exists()


def test_what_python_gives_is_checked_too(runs, tmp_path):
    for vary, sentence in [
        ({"ipc": "12"}, "vary ipc='12' is no list of values: give e.g."),
        ({"ipc": []}, r"vary ipc=\[\] is no list of values"),
        ({"ipc": [1.5]}, "vary ipc=1.5 is not of its type: give a whole number."),
        ({"ipc": [True]}, "vary ipc=True is not of its type"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            sweep(replace(TINY, out=tmp_path), vary)
    with pytest.raises(ValueError, match="jobs=0 is too small: give 1 or more."):
        sweep(replace(TINY, out=tmp_path), {"seed": [0]}, jobs=0)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a run: give another folder to a sweep."):
        sweep(replace(TINY, out=Path(tmp_path)), {"seed": [0]})
    assert runs == []


def test_programs_of_earlier_runs_are_dropped_before_they_are_too_many(monkeypatch):
    def maps():
        return Path("/proc/self/maps").read_text().count("\n")

    kept = [jax.jit(lambda x, i=i: x @ x + i) for i in range(20)]
    for function in kept:
        function(np.ones((3, 3)))
    held = maps()
    module._forget_programs()
    assert maps() >= held
    monkeypatch.setattr(module, "MOST_MAPS", 0)
    module._forget_programs()
    assert maps() < held
