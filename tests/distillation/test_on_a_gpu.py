"""The script for a GPU: what it counts, how it shares its time, and a rehearsal in small."""

import importlib
import json
import os
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_distillation import Distillation, RunConfig

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_only_constants_that_are_no_number_repeated_count():
    card = importlib.import_module("gpu._card")
    table, ones = np.arange(300, dtype=np.float32), np.ones((300, 1), np.float32)
    text = jax.jit(lambda x: (x + table) @ (x * ones) + 7).lower(jnp.ones(())).as_text()
    assert card.constants(text) == [1200]
    hidden = "stablehlo.constant dense_resource<__elided__> : tensor<8x2xbf16>"
    assert card.constants(hidden) == [32]


@pytest.mark.parametrize("linear_solver", ["cg", "cholesky"])
def test_operations_by_formula_are_those_of_the_parts_that_run(linear_solver):
    meta_step = importlib.import_module("meta_step")
    speed = importlib.import_module("gpu.speed")
    config = RunConfig(dataset="digits", width=3, batch_size=24, pool_size=1, samples=60)
    problem = meta_step.problem_of(Distillation(config), trained=1, pool_steps=3)
    method = problem.recipe.method
    method = replace(method, solver=replace(method.solver, linear_solver=linear_solver))
    problem = problem._replace(recipe=replace(problem.recipe, method=method))
    way = meta_step.library(problem, problem.recipe)
    _, metrics = meta_step.runner(way)()()
    found = speed.operations(problem, metrics)
    if linear_solver == "cg":
        (*_, by_hand, _) = meta_step.account(problem)["rows"][-1]
        assert metrics["adjoint_steps"] > 0
        assert found == pytest.approx(1e9 * by_hand, rel=0.01)
    else:
        assert metrics["adjoint_steps"] == 0
        coreset = replace(problem.state.coreset, flip=True)
        state = replace(problem.state, coreset=coreset)
        twice = speed.operations(problem._replace(state=state), metrics)
        assert 1 < twice / found < 4


@pytest.fixture
def conductor(monkeypatch, tmp_path):
    script = importlib.import_module("on_a_gpu")
    left = [540.0]
    monkeypatch.setattr(script.Conductor, "left", property(lambda self: left[0]))
    one = script.Conductor(Namespace(minutes=9), tmp_path, None, 0.0)
    one.given_left = left
    return script, one


@pytest.mark.parametrize("used", [1.0, 0.25])
def test_the_stages_share_the_time_and_what_others_left(conductor, used):
    script, one = conductor
    names, given = list(script.STAGES), {}
    for i, name in enumerate(names):
        given[name] = one.budget(names[i:])
        assert given[name] <= min(one.left, script.STAGES[name].most)
        one.given_left[0] -= used * given[name]
    assert one.left >= 0
    if used == 1:
        assert given["toolkit"] == pytest.approx(46, abs=2)
        assert all(seconds >= script.LEAST for seconds in given.values())
    else:
        assert given["peers"] == script.STAGES["peers"].most


@pytest.mark.parametrize(
    ("program", "seconds", "how"),
    [
        ("import sys; sys.stdin.readline(); sys.exit(3)", 60.0, "failed: exit code 3"),
        ("import time; time.sleep(600)", 0.0, "ended from outside: its time was up"),
        ("import time; time.sleep(600)", -1.0, "not begun: no time was left"),
    ],
)
def test_a_stage_that_dies_or_hangs_is_told_and_gone(program, seconds, how, conductor, monkeypatch):
    script, one = conductor
    monkeypatch.setattr(script, "GRACE", 0.1)
    monkeypatch.setattr(script, "LEAST", 0.0)
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, text=True)
    with process:
        assert one.see_through(process, seconds) == how
        assert process.poll() is not None


def test_a_stage_stops_before_what_it_has_no_time_for(tmp_path, capsys):
    task_module = importlib.import_module("gpu._task")
    task = task_module.Task("one", tmp_path, tmp_path, tmp_path, task_module.TINY, np.inf)
    task.begin("a step", needs=1e9)
    task.write("figures", "first", {"n": 1})
    task.ends = 0.0
    with pytest.raises(task_module.OutOfTime, match="another"):
        task.begin("another", needs=1)
    task.write("figures", "second", {"n": 2})
    held = json.loads((tmp_path / "figures.json").read_text())
    assert (held["first"], held["second"]) == ({"n": 1}, {"n": 2}) and "jax" in held["machine"]
    assert "a step" in capsys.readouterr().out


def test_a_distillation_is_planned_by_the_speed_that_was_measured():
    accuracy = importlib.import_module("gpu.accuracy")
    known = {"ways": {"exact, tensorfloat32": {"first call, s": 20.0, "seconds": 0.05}}}
    assert accuracy.fitting(known, 132.1, 1000, 15_000) == 2001
    known["ways"] |= {"exact, float32": {"first call, s": 20.0, "seconds": 1.0}}
    assert accuracy.fitting(known, 132.1, 1000, 15_000) == 2001
    del known["ways"]["exact, tensorfloat32"]
    assert accuracy.fitting(known, 132.1, 1000, 15_000) == 100
    known["ways"]["exact, tensorfloat32"] = {"first call, s": 20.0, "seconds": 0.05}
    assert accuracy.fitting(known, 1e6, 1000, 15_000) == 15_000
    assert accuracy.fitting(known, 1.0, 1000, 15_000) == 10
    assert accuracy.fitting({}, 132.0, 1000, 15_000) == 1000


@pytest.fixture
def data(tmp_path):
    """Noise in the form of CIFAR-10, and of its authors' set; no MNIST."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
    from PIL.Image import fromarray

    rng = np.random.default_rng(0)
    features = Features({"img": Image(), "label": ClassLabel(names=list("abcdefghij"))})
    folder = tmp_path / "data" / "cifar10"
    splits = {}
    for name, count in (("train", 60), ("test", 20)):
        pixels = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        labels = np.arange(count) % 10
        columns = {"img": list(map(fromarray, pixels)), "label": labels.tolist()}
        splits[name] = Dataset.from_dict(columns, features=features)
    DatasetDict(splits).save_to_disk(folder)
    images, labels = rng.normal(size=(10, 32, 32, 3)), np.eye(10) - 0.1
    np.savez(folder.parent / "rcig_authors_cifar10_1ipc.npz", x_proto=images, y_proto=labels)
    return folder.parent


def test_no_stage_takes_the_card_while_it_only_imports():
    """The next stage imports its modules while another one has all of the memory."""
    script = importlib.import_module("on_a_gpu")
    modules = {stage.run[0] for stage in script.STAGES.values()}
    root = BENCHMARKS.parent
    path = [str(BENCHMARKS), str(root), str(root / "applications" / "distillation")]
    done = subprocess.run(
        [sys.executable, "-c", "".join(f"import gpu.{name}\n" for name in sorted(modules))],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path), "JAX_PLATFORMS": "no_such_platform"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_rehearsal_in_small(data, tmp_path):
    """A stage without its data fails, is told, and stops no other."""
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "on_a_gpu.py"), "--rehearse", "--data", str(data),
         "--out", str(out), "--stages", "speed_mnist_1", "accuracy_cifar10_1",
         "systems_cifar10_10"],
        capture_output=True, text=True, env=os.environ | {"HF_HOME": str(tmp_path / "cache")},
    )  # fmt: skip
    ends = json.loads((out / "gpu_stages.json").read_text())
    assert "mnist could not be prepared" in ends["speed_mnist_1"]["how"], done.stdout
    assert ends["accuracy_cifar10_1"]["how"] == "done", (out / "log.txt").read_text()
    assert done.returncode == 1 and "mnist could not be prepared" in done.stdout
    assert "warned:" not in done.stdout
    found = json.loads((out / "gpu_accuracy.json").read_text())["cifar10/1"]
    assert found["iterations"] == found["planned"] == 12
    assert all(len(found[kind]) == 2 for kind in ("accuracies", "authors", "random"))
    assert found["compilations of the last judge"] == [] and len(found["curve"]) > 1
    with np.load(out / "distilled_cifar10_1.npz") as distilled:
        assert distilled["images"].shape == (10, 8, 8, 3)
    assert ends["systems_cifar10_10"]["how"] == "done", (out / "log.txt").read_text()
    systems = json.loads((out / "gpu_systems.json").read_text())["cifar10/10"]
    assert list(systems) == ["random", "dm", "kip", "frepo", "bptt", "rcig"]
    for method, one in systems.items():
        assert len(one["accuracies"]) == 2 and one["peak, bytes"] > 0
        assert one["iterations"] == (0 if method == "random" else 12)
    assert len(list(out.iterdir())) <= 9
