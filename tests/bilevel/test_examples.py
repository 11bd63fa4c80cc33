"""The examples run, and what they print is true."""

import re
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_quickstart(capsys):
    example = runpy.run_path(str(EXAMPLES / "quickstart.py"))
    with jax.numpy_dtype_promotion("standard"):  # as a user runs it
        before, after = example["main"]()
    printed = [float(n) for n in re.findall(r"\d\.\d{3}", capsys.readouterr().out)]
    assert printed == [round(float(h.value), 3) for h in (before, after)]
    assert after.value < 0.97 * before.value
    assert after.adjoint.residual < 1e-4 and jnp.all(jnp.isfinite(after.grad))
    # The first of them is the validation error of the dense ridge solution.
    x, y = (np.asarray(example[name], np.float64) for name in ("x", "y"))
    train, rest = example["train"], example["validation"]
    penalty = np.exp(-5.0) * np.eye(10)
    weights = np.linalg.solve(x[train].T @ x[train] / 60 + penalty, x[train].T @ y[train] / 60)
    np.testing.assert_allclose(before.value, np.mean((x[rest] @ weights - y[rest]) ** 2), rtol=1e-4)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run an example's `main` as a user does, on the data at `data` or on digits."""

    def run(name, data=tmp_path, **sizes):
        monkeypatch.setenv("BILEVEL_DATA", str(data))
        monkeypatch.syspath_prepend(str(EXAMPLES))
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](**sizes)

    return run


def printed_table(text):
    """The numbers of each row, by the words that it begins with."""
    rows = [re.match(r"(\D*[^\d\s+.-])\s+[\d+.-]", line) for line in text.splitlines()]
    return {
        row[1].strip(): [float(n) for n in re.findall(r"[+-]?\d+\.?\d*", row.string[row.end(1) :])]
        for row in rows
        if row
    }


def test_data_cleaning(run, capsys):
    errors, auc = run("data_cleaning", train=700, validation=400, test=600, steps=20)
    text = capsys.readouterr().out
    table = printed_table(text)
    assert text.startswith("digits")
    for row, error in errors.items():
        assert table[row] == [round(error, 1)]
    assert f"{auc:.3f}" in text
    assert auc > 0.85
    assert errors["clean samples"] < errors["weights found"] < errors["all, best decay"]
    assert errors["all, best decay"] <= errors["all samples"] - 3


def test_data_cleaning_on_images(run, capsys, real_data):
    sizes = {"train": 600, "validation": 600, "test": 600, "steps": 15, "decay": 1e-2}
    errors, auc = run("data_cleaning", real_data, **sizes)
    assert capsys.readouterr().out.startswith("Fashion-MNIST: 600 training samples")
    assert auc > 0.85
    assert errors["weights found"] < errors["all samples"]


def test_influence(run, capsys):
    agreement, groups = run("influence", train=400, test=400, count=12, decay=3e-2)
    table = printed_table(capsys.readouterr().out)
    for pearson, spearman, wrong in agreement.values():
        assert pearson > 0.98 and spearman > 0.9 and 0 < wrong < 0.25
    for row, (predicted, true) in groups.items():
        assert table[row] == [round(predicted, 5), round(true, 5)]
    predicted, true = groups["most helpful"]
    assert 0.5 * true < predicted < true  # the first order underestimates what many do at once
    assert true > max(groups["random"])


def test_influence_on_images(run, capsys, real_data):
    agreement, _ = run("influence", real_data, train=500, test=500, count=6, decay=3e-2)
    assert capsys.readouterr().out.startswith("Fashion-MNIST: 500 training samples")
    assert min(pearson for pearson, _, _ in agreement.values()) > 0.95


def check_printed(accuracies, text):
    table = printed_table(text)
    for row, percent in accuracies.items():
        interval = 1.96 * percent.std() / np.sqrt(len(percent))
        assert table[row][:2] == [round(float(n), 1) for n in (percent.mean(), interval)]


def test_meta_learning(run, capsys):
    accuracies = run("meta_learning", steps=10, tasks=4, test_tasks=30, width=16)
    text = capsys.readouterr().out
    assert text.startswith("digits") and "5 classes held out" in text
    check_printed(accuracies, text)
    assert len(accuracies) == 3 and all(percent.mean() > 50 for percent in accuracies.values())


@pytest.mark.slow
def test_meta_learning_on_images(run, capsys, real_data):
    sizes = {"size": 10_000, "steps": 100, "tasks": 8, "test_tasks": 100}
    accuracies = run("meta_learning", real_data, **sizes)
    text = capsys.readouterr().out
    assert text.startswith("Tiny-ImageNet") and "40 classes held out" in text
    check_printed(accuracies, text)
    for row in ("first-order MAML", "implicit MAML"):
        gain = accuracies[row] - accuracies["from scratch"]  # on the same tasks
        assert gain.mean() > 2 * gain.std() / np.sqrt(len(gain))


@pytest.mark.slow
def test_hyperparameter_optimization(run, capsys):
    sizes = {"train": 200, "validation": 800, "test": 790}
    both = run("hyperparameter_optimization", **sizes, steps=8, network_steps=3, width=8)
    text = capsys.readouterr().out
    assert text.startswith("digits") and "640 hyperparameters" in text
    for errors, part in zip(both, text.split("network,"), strict=True):
        table = printed_table(part)
        for row, (validation, test) in errors.items():
            assert table[row][:2] == [round(validation, 1), round(test, 1)]
            assert test < 25
    logistic, _ = both
    for row in ("hypergradient", "unrolling"):
        assert logistic[row][0] < logistic["random search"][0] - 1


def test_single_loop(run, capsys):
    sizes = {"train": 700, "validation": 400, "test": 600}
    results = run("single_loop", **sizes, exact_steps=12, steps=2000)
    text = capsys.readouterr().out
    assert text.startswith("digits")
    last = {line[:11]: line for line in text.splitlines() if "loop" in line[:11]}
    for method, (loss, error) in results.items():
        assert last[method].split()[-3:] == [f"{loss:.3f}", f"{error:.1f}", "%"]
    first = float(next(line for line in text.splitlines() if line[:6] == "single").split()[-3])
    (double, double_error), (single, single_error) = results.values()
    assert single < 0.9 * first
    assert 0.5 * double < single < 1.5 * double
    assert abs(single_error - double_error) < 5


def test_deep_equilibrium(run, capsys):
    results = run("deep_equilibrium", steps=60, width=32)
    text = capsys.readouterr().out
    for name, (error, memory, _) in results.items():
        (line,) = (line for line in text.splitlines() if line.startswith(name))
        assert f"error {error:4.1f} %" in line and f"{memory / 2**20:6.2f} MiB" in line
    (error, memory, _), (unrolled_error, unrolled_memory, _) = results.values()
    assert error < 18 and abs(error - unrolled_error) < 3
    assert memory < 0.7 * unrolled_memory


def test_nash_equilibrium(run, capsys):
    first, last = run("nash_equilibrium", steps=8)
    text = capsys.readouterr().out
    assert f"{first.value:.4f} before, {last.value:.4f} after" in text
    assert last.value < first.value
    assert last.inner.gradient_norm < 1e-4 and last.adjoint.residual < 1e-4


def test_quadratic_program(run, capsys, x64):
    weights, prices, changes, difference, psi, h = run("quadratic_program", steps=3)
    text = capsys.readouterr().out
    assert f"after 3 steps {float(psi['budget']):.3f}" in text
    bound = np.asarray(weights) < 1e-8
    assert 2 < bound.sum() < 9 and np.all(np.asarray(prices.inequality)[~bound] < 1e-8)
    # An envelope: what the least loss changes by is the multiplier.
    np.testing.assert_allclose(prices.inequality, changes["floor"], atol=1e-8)
    np.testing.assert_allclose(-prices.equality, changes["budget"], rtol=1e-8)
    np.testing.assert_allclose(changes["budget"], difference, rtol=1e-6)
    assert np.isfinite(h.grad["budget"]) and h.grad["budget"] != 0


def test_own_condition(run, capsys):
    h, rows = run("own_condition", count=6)
    text = capsys.readouterr().out
    assert f"variance explained {h.value:.4f}" in text
    for predicted, again in rows:
        assert f"{predicted:+10.5f} {again:+15.5f}" in text
    np.testing.assert_allclose(rows[:, 0], rows[:, 1], rtol=0.35)
