"""A run in its folder: complete, resumed to the same bits, refused where it cannot work."""

import json
import os
import shutil
import signal
from dataclasses import replace

import equinox as eqx
import jax
import numpy as np
import pytest

from bilevel_distillation import (
    DistilledSet,
    EvaluationConfig,
    Reporter,
    RunConfig,
    load_hf,
    run,
)
from bilevel_distillation._artifacts._folder import RunFolder
from bilevel_distillation.data import load

TINY = RunConfig(
    dataset="digits",
    iterations=12,
    batch_size=32,
    width=4,
    depth=2,
    linear_solver="cg",
    pool_size=2,
    pool_steps=3,
    pool_max_steps=6,
    curve_points=1,
    checkpoint_seconds=0.0,
    evaluation=EvaluationConfig(repeats=1, steps=4),
)


class Crash(Reporter):
    """Raises once so many iterations are done."""

    def __init__(self, after: int):
        self.left = after

    def advance(self, count, **figures):
        self.left -= count
        if self.left <= 0:
            raise RuntimeError("the power went off")


def arrays(path):
    with np.load(path / "distilled.npz") as file:
        return {name: file[name] for name in file.files if file[name].dtype.kind == "f"}


def snapshots(path):
    """Images and labels of each."""
    kept = RunFolder(path).history.read()
    return {one.iteration: (one.images, one.labels) for one in kept}


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].tobytes() == other[name].tobytes(), name


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "complete"
    return out, run(replace(TINY, out=out))


def test_a_run_leaves_all_that_is_promised(complete):
    out, results = complete
    held = json.loads((out / "results.json").read_text())
    assert held == results.to_json() and list(held) == ["distilled", "random_subset"]
    assert held["distilled"] == list(results.distilled)
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [r["iteration"] for r in records if "loss" in r]
    assert steps == list(range(1, 13))
    assert all(0 < r["adjoint_error"] <= 1e-2 for r in records if "loss" in r)
    assert [r["iteration"] for r in records if "test_accuracy" in r] == [0]
    for picture in ("images.png", "curve.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    config = json.loads((out / "config.json").read_text())
    assert config["width"] == 4 and config["ridge_rate"] == 5e-4 and config["depth"] == 2
    distilled, exported = DistilledSet.load_npz(out / "distilled.npz"), load_hf(out / "dataset")
    assert distilled.images.shape == (10, 8, 8, 1)
    np.testing.assert_array_equal(distilled.images, exported.images)
    assert distilled.provenance["iterations"] == 12
    assert list(snapshots(out)) == [0, 1, 12]
    np.testing.assert_array_equal(snapshots(out)[12][0], distilled.display_images)
    np.testing.assert_array_equal(snapshots(out)[12][1], distilled.labels)
    assert "This run is not finished" not in (out / "report.html").read_text(encoding="utf-8")


def test_a_complete_run_is_only_read(complete):
    out, results = complete
    before = (out / "metrics.jsonl").stat().st_mtime_ns
    assert run(replace(TINY, out=out)) == results
    assert (out / "metrics.jsonl").stat().st_mtime_ns == before


def test_the_saved_config_runs_again_to_the_same_bits(complete, tmp_path):
    out, _ = complete
    config = RunFolder(out).read_config()
    run(replace(config, out=tmp_path / "again"))
    assert_same_bits(arrays(out), arrays(tmp_path / "again"))


@pytest.mark.parametrize("after", [1, 5, 11])
def test_a_crashed_run_resumes_to_the_same_bits(complete, tmp_path, after):
    config = replace(TINY, out=tmp_path / "run")
    with pytest.raises(RuntimeError, match="power"):
        run(config, Crash(after))
    run(config)
    assert_same_bits(arrays(complete[0]), arrays(config.out))
    lines = (config.out / "metrics.jsonl").read_text().splitlines()
    iterations = [json.loads(line)["iteration"] for line in lines if '"loss"' in line]
    assert iterations == list(range(1, 13))
    ours, theirs = snapshots(complete[0]), snapshots(config.out)
    assert ours.keys() == theirs.keys()
    for iteration in ours:
        for one, other in zip(ours[iteration], theirs[iteration], strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_page_that_cannot_be_drawn_loses_nothing(tmp_path, monkeypatch):
    from bilevel_distillation import _page

    def fail(path):
        raise RuntimeError("no ink")

    said = []
    listener = Reporter()
    listener.say = said.append
    monkeypatch.setattr(_page, "report", fail)
    results = run(replace(TINY, out=tmp_path / "run", iterations=1), listener)
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results.to_json()
    assert "could not be drawn (RuntimeError: no ink): the run is whole" in said[-1]
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_damaged_checkpoint_is_passed_over_and_said(complete, tmp_path, caplog):
    config = replace(TINY, out=tmp_path / "run")
    with pytest.raises(RuntimeError, match="power"):
        run(config, Crash(8))
    newest = max((config.out / "checkpoints").iterdir(), key=lambda p: int(p.name))
    files = [p for p in (newest / "state").rglob("*") if p.is_file() and p.parent.name == "d"]
    largest = max(files, key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    largest.write_bytes(bytes(content))
    run(config)
    assert "is damaged" in caplog.text and "the one before it is used" in caplog.text
    assert_same_bits(arrays(complete[0]), arrays(config.out))


@pytest.fixture
def copy(complete, tmp_path):
    """The uninterrupted run in a folder that may be spoilt."""
    shutil.copytree(complete[0], tmp_path / "run")
    return tmp_path / "run"


def test_results_are_safe_before_anything_is_drawn(copy, complete, monkeypatch):
    from bilevel_distillation._app import _finish

    drawn = ("images.png", "curve.png", "dataset", "report.html")
    for name in ("results.json", *drawn):
        path = copy / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    said = []
    listener = Reporter()
    listener.say = said.append

    def fail(folder, distilled, results):
        assert json.loads((copy / "results.json").read_text()) == results.to_json()
        assert results == complete[1]
        raise RuntimeError("no\nink.")

    with monkeypatch.context() as patch:
        for name in ("_draw_images", "_draw_curve", "_export", "_draw_page"):
            patch.setattr(_finish, name, fail)
        assert run(replace(TINY, out=copy), listener) == complete[1]
    assert len(said) == 4 and all("could not be drawn (RuntimeError: no ink)" in s for s in said)
    assert not any((copy / name).exists() for name in drawn)
    assert run(replace(TINY, out=copy), listener) == complete[1]  # draws what is missing
    assert all((copy / name).exists() for name in drawn) and len(said) == 5
    assert (copy / "images.png").read_bytes() == (complete[0] / "images.png").read_bytes()
    assert (copy / "curve.png").read_bytes() == (complete[0] / "curve.png").read_bytes()


def test_where_nobody_listens_the_log_hears_of_what_was_not_drawn(copy, caplog):
    (copy / "report.html").unlink()
    (copy / "report.html").symlink_to(copy / "victim")
    (copy / "victim").write_text("precious")
    (copy / "victim").unlink()
    run(replace(TINY, out=copy))
    assert "the page could not be drawn" in caplog.text and not (copy / "victim").exists()


@pytest.mark.parametrize("name", ["results.json", "distilled.npz", "preprocess.npz"])
def test_what_is_damaged_and_can_be_made_again_is(copy, complete, name, caplog):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    assert run(replace(TINY, out=copy)) == complete[1]
    assert f"{name}' is damaged" in caplog.text
    assert (copy / "damaged" / name).read_bytes() == content
    assert_same_bits(arrays(complete[0]), arrays(copy))
    with np.load(copy / "preprocess.npz") as one, np.load(complete[0] / "preprocess.npz") as two:
        assert_same_bits(dict(one), dict(two))


def test_what_cannot_be_made_again_is_said_and_nothing_is_begun_anew(copy):
    shutil.rmtree(copy / "checkpoints")
    (copy / "distilled.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="distilled.npz' is lost, and no checkpoint of the last"):
        run(replace(TINY, out=copy))
    assert (copy / "results.json").exists() and len(snapshots(copy)) == 3
    assert len(RunFolder(copy).read_metrics()) == 13


@pytest.mark.parametrize(
    ("name", "content"),
    [("config.json", "[]"), ("config.json", None), ("metrics.jsonl", None),
     ("checksums.json", "{"), ("config.json", "x")],
)  # fmt: skip
def test_other_damage_ends_with_a_sentence_that_names_the_file(copy, name, content):
    whole = (copy / name).read_text()
    (copy / name).write_text(whole.replace("1", "2", 1) if content is None else content)
    if name == "metrics.jsonl":
        (copy / "results.json").unlink()
        (copy / "distilled.npz").unlink()
    before = sorted(path.name for path in copy.rglob("*.*"))
    with pytest.raises(ValueError, match=f"{name}.* is (damaged|not a run's config)"):
        run(replace(TINY, out=copy))
    after = sorted(path.name for path in copy.rglob("*.*"))
    assert [name for name in after if name != ".lock"] == [n for n in before if n != ".lock"]


def test_a_run_of_the_version_before_is_read_and_goes_on(copy, complete):
    for path in [copy / "checksums.json", *copy.glob("checkpoints/*/checksums.json")]:
        path.unlink()
    for path in [copy / "distilled.npz", copy / "preprocess.npz", *copy.glob("history/*.npz")]:
        with np.load(path) as file:
            held = {name: file[name] for name in file.files if name != "checksums"}
        np.savez(path, **held)
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    plain = [{name: one[name] for name in one if name != "crc32"} for one in lines]
    (copy / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in plain))
    assert run(replace(TINY, out=copy)) == complete[1]
    for name in ("results.json", "distilled.npz"):
        (copy / name).unlink()
    assert run(replace(TINY, out=copy)) == complete[1]
    assert_same_bits(arrays(complete[0]), arrays(copy))


def test_only_one_process_goes_on_with_a_run(copy):
    holder = RunFolder(copy)
    holder.lock()
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    for config in (TINY, replace(TINY, seed=1)):
        with pytest.raises(ValueError, match="out=.*run' is in use, another process"):
            run(replace(config, out=copy))
    assert before == {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    holder.release()
    run(replace(TINY, out=copy))


def test_a_run_whose_data_changed_does_not_go_on(copy, complete, monkeypatch):
    from bilevel_distillation._app import _run as module

    data, config = load("digits"), replace(TINY, out=copy)
    doubled = np.ones((1, 2, 2, 1), np.uint8)
    changes = {
        "its training images": {"train_images": data.train_images[::-1].copy()},
        "its test images": {"test_labels": (data.test_labels + 1) % 10},
        "its class names": {"class_names": tuple("abcdefghij")},
        "its training images and its test images": {  # of another size
            name: np.kron(getattr(data, name), doubled) for name in ("train_images", "test_images")
        },
    }
    with monkeypatch.context() as patch:
        for i, (what, change) in enumerate(changes.items()):
            changed = replace(data, **change)
            patch.setattr(module, "load_parts", lambda config, changed=changed: (changed, None))
            if i == 0:
                assert run(config) == complete[1]  # complete: it is only read
                (copy / "results.json").unlink()
            with pytest.raises(ValueError, match=rf"have changed since it began \({what}\): put"):
                run(config)
    assert run(config) == complete[1]


@pytest.mark.parametrize("name", ["checkpoints", "history", "damaged"])
def test_a_folder_of_a_run_that_is_a_link_is_not_followed(copy, tmp_path, name):
    (tmp_path / "years").mkdir()
    for year in ("2019", "2020", "000007.npz"):
        (tmp_path / "years" / year).mkdir()
    shutil.rmtree(copy / name, ignore_errors=True)
    (copy / name).symlink_to(tmp_path / "years")
    with pytest.raises(ValueError, match=f"{name}' is a link"):
        run(replace(TINY, out=copy))
    assert len(list((tmp_path / "years").iterdir())) == 3


def test_what_a_killed_first_process_left_is_no_foreign_file(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    for name in (".lock", ".files.lock", "checksums.json", ".config.json.0123abcd.partial"):
        (out / name).write_text("{}" if name == "checksums.json" else "")
    run(replace(TINY, out=out, iterations=1))
    assert not list(out.glob(".*.partial")) and (out / "results.json").exists()


def test_the_end_of_a_terminal_stops_a_run_as_ctrl_c_does():
    from bilevel_distillation._app._signals import Signals

    for name in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        # These tests may run under nohup or in the background themselves.
        outside = signal.signal(name, signal.SIG_DFL)
        try:
            with Signals() as signals:
                os.kill(os.getpid(), name)
                assert signals.caught
        finally:
            signal.signal(name, outside)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not signals.caught
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_adjoint_that_was_not_solved_is_said(tmp_path, complete):
    class Heard(Reporter):
        def __init__(self):
            self.messages = []

        def say(self, message):
            self.messages.append(message)

    rough, fine = Heard(), Heard()
    run(replace(TINY, out=tmp_path / "rough", iterations=2, cg_max_steps=1), rough)
    assert any("raise --cg-max-steps (now 1)" in message for message in rough.messages)
    run(replace(TINY, out=tmp_path / "fine", iterations=2), fine)
    assert fine.messages == []


def test_a_folder_of_another_run_is_refused(complete):
    out, _ = complete
    with pytest.raises(ValueError, match="other settings .*seed is 0 there and 1 here.*another"):
        run(replace(TINY, out=out, seed=1))


def test_a_folder_that_holds_no_run_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="exists and holds no run: give a new or empty folder"):
        run(replace(TINY, out=tmp_path))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(ipc=1000), "ipc is 1000 but class .* has"),
        (dict(depth=4), "images of 8 x 8 pixels .* cannot be halved depth=4 times"),
        (dict(zca=True), "zca=True whitens colour images, and 'digits' is gray"),
        (dict(dataset="digit"), "digits"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(tmp_path, change, sentence):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        run(replace(TINY, out=tmp_path / "run", **change))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(ipc=0), "ipc=0 is too small: give 1 or more"),
        (dict(average_decay=1.0), "average_decay=1.0 is not a decay"),
        (dict(ridge_rate=0.0), "ridge_rate=0.0 is not positive"),
        (dict(padding=-1), "padding=-1 is negative"),
    ],
)
def test_settings_out_of_range_are_said(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(TINY, **change)


def test_factorised_in_float64_the_rest_stays_float32(x64, monkeypatch):
    from bilevel_distillation import Distillation

    config = replace(TINY, float64=True, linear_solver="cholesky")
    wide = Distillation(config)
    metrics = wide.step()
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(wide.state.coreset)} == {"float32"}
    floats = [leaf.dtype for leaf in jax.tree.leaves(eqx.filter(wide.state, eqx.is_inexact_array))]
    assert set(map(str, floats)) == {"float32"}
    assert metrics.loss.dtype == "float32"
    monkeypatch.setattr(jax.config, "read", lambda name: False)
    with pytest.raises(ValueError, match="float64=True needs 64-bit numbers"):
        Distillation(config)
