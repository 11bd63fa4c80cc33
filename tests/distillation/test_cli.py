"""The command line, in process: what it prints, what it writes, and how it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bilevel_distillation import DistilledSet, RunConfig, load_hf
from bilevel_distillation._cli import main
from bilevel_distillation._console import percent
from bilevel_distillation._estimate import estimate

QUICK = ["--evaluation.networks", "2", "--evaluation.steps", "3"]


def flags(**settings):
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


TINY = ["run", "--method", "frepo", *QUICK] + flags(
    width=4, depth=2, iterations=2, **{"batch-size": 16, "pool-size": 2, "pool-steps": 1,
                                       "curve-points": 1}
)  # fmt: skip


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """One line of output stays one line."""
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run [1]"
    main([*TINY, "--out", str(out)])
    return out


def refused(capsys, *arguments):
    """The sentence that a command ends with."""
    with pytest.raises(SystemExit) as ending:
        main([str(argument) for argument in arguments])
    assert ending.value.code == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    return said.err


def test_a_dry_run_says_what_it_takes_and_writes_nothing(tmp_path, capsys):
    out = tmp_path / "run"
    main([*TINY, "--method", "rcig", "--iterations", "40", "--out", str(out), "--dry-run"])
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("40 meta-iterations of ") and "with compilation" in said
    assert "MB of memory on a device" in said
    assert not out.exists()


def test_more_images_are_estimated_to_take_more_memory():
    config = RunConfig(width=4, depth=2, batch_size=16, pool_size=2, pool_steps=1)
    small, large = (
        estimate(replace(config, ipc=ipc, linear_solver="cg", microbatch=micro))
        for ipc, micro in ((1, 5), (20, 100))
    )
    assert 0 < small.resident < small.memory < large.memory
    # 200 images keep at least their activations in the first layer: 4 channels of 64 pixels.
    assert large.memory - large.resident > 200 * 4 * 64 * 4


def test_run_prints_a_table_and_the_paths(finished, capsys):
    main([*TINY, "--out", str(finished)])  # complete: it is only read
    said = capsys.readouterr().out
    results = json.loads((finished / "results.json").read_text())
    assert f"{finished} holds this run, complete." in said
    assert "digits, 1 per class, frepo" in said
    for row, name in (("distilled set", "distilled"), ("random subset", "random_subset")):
        (line,) = [line for line in said.splitlines() if row in line and "%" in line]
        assert percent(results[name]) in line and " 2 " in line
    for path in ("images.png", "curve.png", "dataset", "distilled.npz"):
        assert str(finished / path) in said and (finished / path).exists()


def test_percent_is_mean_and_deviation():
    assert percent([0.5, 0.6, 0.7]) == "60.0 ± 8.2 %"
    assert percent([0.123]) == "12.3 %"


def test_evaluate_of_a_run_and_of_its_exports_agree(finished, tmp_path, capsys):
    assert load_hf(finished / "dataset").provenance["width"] == 4
    main(["export", str(finished), "--to", "npz", "--out", str(tmp_path / "npz")])
    capsys.readouterr()
    lines = []
    for path in (finished, finished / "dataset", tmp_path / "npz" / "distilled.npz"):
        main(["evaluate", str(path), "--seed", "3", *QUICK])
        said = capsys.readouterr().out
        lines.append([line for line in said.splitlines() if "│" in line and "%" in line])
    assert len(lines[0]) == 2 and lines[0] == lines[1] == lines[2]


def test_evaluate_of_a_set_made_elsewhere(tmp_path, capsys):
    rng = np.random.default_rng(0)
    path = tmp_path / "foreign.npz"
    np.savez(path, x_proto=rng.normal(size=(10, 8, 8, 1)), y_proto=np.eye(10) - 0.1)
    command = ["evaluate", str(path), "--dataset", "digits", "--width", "4", "--no-baseline"]
    main([*command, *QUICK])
    said = capsys.readouterr().out
    assert "foreign.npz" in said and "distilled set" in said and "random" not in said
    sentence = refused(capsys, "evaluate", path)
    assert sentence == (
        f"bilevel-distill: dataset is not known from {str(path)!r} itself: name it, e.g. "
        "--dataset cifar10.\n"
    )
    np.savez(path, images=rng.normal(size=(4, 8, 8, 1)), labels=np.eye(4))
    sentence = refused(capsys, *command)
    assert "4 classes" in sentence and "name the data set that it was distilled" in sentence


@pytest.mark.parametrize(("to", "holds"), [("hf", "README.md"), ("npz", "distilled.npz"),
                                           ("png", "3_000.png")])  # fmt: skip
def test_export_goes_beside_the_runs_other_files(finished, capsys, to, holds):
    main(["export", str(finished), "--to", to])
    folder = finished / {"hf": "dataset"}.get(to, to)
    assert (folder / holds).is_file()
    assert capsys.readouterr().out.startswith(f"written: {folder}")
    if to == "npz":
        again, own = (DistilledSet.load_npz(f / holds) for f in (folder, finished))
        np.testing.assert_array_equal(again.images, own.images)


def test_padding_of_nought_is_a_size_like_any_other(finished, monkeypatch):
    from bilevel_distillation import EvaluateConfig, EvaluationConfig, _reevaluate

    asked = []
    monkeypatch.setattr(_reevaluate, "judge", lambda config, *a, **k: asked.append(config) or [1.0])
    config = json.loads((finished / "config.json").read_text())
    (finished / "config.json").write_text(json.dumps(config | {"padding": 4}))
    try:
        short = EvaluationConfig(networks=1, steps=1)
        for padding in (None, 0):
            _reevaluate.reevaluate(
                EvaluateConfig(finished, padding=padding, baseline=False, evaluation=short)
            )
    finally:
        (finished / "config.json").write_text(json.dumps(config))
    assert [one.padding for one in asked] == [4, 0]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["run", "--help"], ["evaluate", "--help"]])
def test_help_is_printed_and_free_of_clutter(arguments, capsys):
    with pytest.raises(SystemExit) as ending:
        main(arguments)
    said = capsys.readouterr().out
    assert ending.value.code in (0, None) and "usage: bilevel-distill" in said
    assert "None" not in said
    if arguments[:1] == ["run"]:
        assert "--zca, --no-zca" in said and "--width INT" in said
    if len(arguments) < 2:
        assert all(command in said for command in ("run", "evaluate", "export"))


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out.startswith("bilevel-distill 0.")


def test_mistakes_are_one_sentence_and_status_2(finished, tmp_path, capsys):
    nowhere, out = tmp_path / "nowhere", ["--out", tmp_path / "new"]
    for arguments, sentence in [
        (["run", "--dataset", "digit", *out], "did you mean 'digits'?"),
        (["run", "--depth", 5, *out], "cannot be halved depth=5 times"),
        (["run", "--zca", *out], "use --no-zca."),
        ([*TINY, "--seed", 9, "--out", finished], "seed is 0 there and 9 here"),
        (["evaluate", nowhere], f"path={str(nowhere)!r} does not exist: give a run's folder"),
        (["evaluate", finished, "--no-zca"], "zca=False is for a set made elsewhere"),
        (["export", nowhere], f"{str(nowhere)!r} holds no run"),
    ]:
        said = refused(capsys, *arguments)
        assert sentence in said and said.startswith("bilevel-distill: "), said
        assert said.count("\n") == 1 and said.endswith("\n")
    assert not (tmp_path / "new").exists()


def test_words_that_the_command_line_does_not_know_are_said(capsys):
    for arguments, words in [
        (["run", "--method", "magic"], ("'magic'", "'--method'", "rcig")),
        (["run", "--ipc", 0], ("ipc=0 is too small: give 1 or more.",)),
        (["run", "--widht", 3], ("--widht",)),
        (["distil"], ("distil", "run, evaluate, export")),
        (["evaluate"], ("PATH",)),
    ]:
        said = " ".join(refused(capsys, *arguments).split())
        assert all(word in said for word in words), said


def test_a_full_disk_is_one_sentence(finished, capsys, monkeypatch):
    from bilevel_distillation import _export

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_export, "export", full)
    assert "No space left on device" in refused(capsys, "export", finished)
