"""The command line, in process: what it prints, what it writes, and how it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bilevel_distillation import DistilledSet, RunConfig, load_hf
from bilevel_distillation._app._cli import main
from bilevel_distillation._artifacts import percent
from bilevel_distillation._artifacts._folder import RunFolder
from bilevel_distillation._engine._estimate import estimate

BRIEF = ["--repeats", "2", "--steps", "3"]
QUICK = ["--evaluation.repeats", "2", "--evaluation.steps", "3"]


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
    for path in ("images.png", "curve.png", "dataset", "distilled.npz", "report.html"):
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
        main(["evaluate", str(path), "--seed", "3", *BRIEF])
        said = capsys.readouterr().out
        lines.append([line for line in said.splitlines() if "│" in line and "%" in line])
    assert len(lines[0]) == 2 and lines[0] == lines[1] == lines[2]


def test_evaluate_of_a_set_made_elsewhere(tmp_path, capsys):
    rng = np.random.default_rng(0)
    path = tmp_path / "foreign.npz"
    np.savez(path, x_proto=rng.normal(size=(10, 8, 8, 1)), y_proto=np.eye(10) - 0.1)
    command = ["evaluate", str(path), "--dataset", "digits", "--width", "4", "--no-baseline"]
    main([*command, *BRIEF])
    said = capsys.readouterr().out
    assert "foreign.npz" in said and "distilled set" in said and "random" not in said
    sentence = refused(capsys, "evaluate", path)
    assert sentence == (
        f"bilevel-distill: --dataset is not known from {str(path)!r} itself: name it, e.g. "
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


def test_evaluate_of_several_networks_and_norms_is_a_table(finished, capsys, monkeypatch):
    from bilevel_distillation._judging import _reevaluate

    def judge(config, *rest, done):
        network, norm = config.evaluation.network, config.evaluation.norm
        return [0.1 * len(network) + 0.001 * len(norm)]

    monkeypatch.setattr(_reevaluate, "judge", judge)
    monkeypatch.setattr(_reevaluate, "judge_random_subsets", lambda *a, **k: [0.25])
    kinds = ["--network", "convnet", "alexnet", "--norm", "none", "layer"]
    main(["evaluate", str(finished), *kinds, "--repeats", "1"])
    lines = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    rows = [(*words[:3], words[4]) for words in lines if "%" in words]
    assert rows == [
        ("convnet", "none", "70.4", "25.0"), ("convnet", "layer", "70.5", "25.0"),
        ("alexnet", "none", "70.4", "25.0"), ("alexnet", "layer", "70.5", "25.0"),
    ]  # fmt: skip
    again = ["--network", "convnet", "vgg11", "--norm", "none", "--repeats", "1"]
    main(["evaluate", str(finished), *again])
    kept = json.loads((finished / "evaluations.json").read_text())
    pairs = [(row["network"], row["norm"]) for row in kept]
    assert pairs == [("convnet", "none"), ("convnet", "layer"), ("alexnet", "none"),
                     ("alexnet", "layer"), ("vgg11", "none")]  # fmt: skip
    main(["report", str(finished)])
    assert "vgg11" in (finished / "report.html").read_text()


def test_evaluate_by_the_judges_of_the_literature(finished, capsys, monkeypatch):
    from bilevel_distillation._judging import _reevaluate

    asked = []

    def judge(config, *rest, done):
        asked.append(config.evaluation)
        return [len(asked) / 10]

    monkeypatch.setattr(_reevaluate, "judge", judge)
    both = ["--judge", "paper", "wide-instance", "--labels", "soft", "hard"]
    main(["evaluate", str(finished), *both, "--no-baseline", "--repeats", "1"])
    said = capsys.readouterr().out
    assert [(one.norm, one.doubling, one.width, one.labels) for one in asked] == [
        ("none", True, 128, "soft"), ("none", True, 128, "hard"),
        ("instance", False, 128, "soft"), ("instance", False, 128, "hard"),
    ]  # fmt: skip
    kept = json.loads((finished / "evaluations.json").read_text())
    named = [row for row in kept if "judge" in row]
    assert [(row["judge"], row.get("labels"), row["distilled"]) for row in named] == [
        ("paper", None, [0.1]), ("paper", "hard", [0.2]),
        ("wide-instance", None, [0.3]), ("wide-instance", "hard", [0.4]),
    ]  # fmt: skip
    assert "wide-instance" in said and "made in" in said and "MB" in said
    main(["evaluate", str(finished), "--recipe", "common", "own", "--no-baseline"])
    sentence = refused(capsys, "evaluate", finished, "--judge", "paper", "--norm", "batch")
    assert "brings its own network: leave one of the two out" in sentence
    sentence = refused(capsys, "evaluate", finished, "--judge", "mine")
    assert "--judge" in sentence


def test_evaluate_of_several_sets_selects_by_held_out_images(finished, capsys, monkeypatch):
    from bilevel_distillation._judging import _reevaluate

    copy = finished / "dataset"
    found = iter([(0.9, 0.3), (0.1, 0.8)])
    watched_by = []

    def judge(config, held, distilled, *, done, watched, noted):
        test, held_out = next(found)
        watched_by.append(len(watched.labels))
        noted(held_out)
        return [test]

    monkeypatch.setattr(_reevaluate, "judge", judge)
    main(["evaluate", str(finished), "--also", str(copy), "--select", "--no-baseline"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "best on held-out" in line]
    (line,) = lines
    assert "80.0" in line and "10.0" in line and "90.0" not in line
    assert len(set(watched_by)) == 1 and len(watched_by) == 2


def test_evaluate_by_another_network(finished, capsys):
    kind = ["--network", "alexnet", "--norm", "batch", "--width", "2", "--augment"]
    main(["evaluate", str(finished), *kind, "--repeats", "1", "--steps", "1", "--no-baseline"])
    said = capsys.readouterr().out
    assert "distilled set" in said and "%" in said
    sentence = refused(capsys, "evaluate", finished, "--network", "vgg11", "--norm", "instance")
    assert "--norm standardises each of 512 channels alone" in sentence


def test_ranking_shows_the_scores_and_where_they_come_from(finished, capsys, monkeypatch):
    from bilevel_distillation._judging import _reevaluate

    asked = []

    def judges(name):
        def judge(config, *rest, done):
            evaluation = config.evaluation
            asked.append((name, evaluation.labels, evaluation.augment, evaluation.steps))
            soft, plain = evaluation.labels == "soft", not evaluation.augment
            worth = {"judge": 0.6, "judge_random_subsets": 0.3, "judge_all_data": 0.9}[name]
            return [worth - 0.1 * (name == "judge" and not soft) - 0.05 * (not plain)]

        return judge

    for name in ("judge", "judge_random_subsets", "judge_all_data"):
        monkeypatch.setattr(_reevaluate, name, judges(name))
    command = ["evaluate", str(finished), "--ranking", "--steps", "7", "--full-steps", "9"]
    main([*command, "--repeats", "1"])
    said = capsys.readouterr().out
    # Gains of 0.3; 0.4 short of all data with hard labels.
    for row, figures in [
        ("this recipe", "60.0 % 30.0 %"), ("hard labels", "50.0 % 90.0 %"),
        ("augmented", "55.0 % 25.0 %"), ("not augmented", "60.0 % 30.0 %"),
        ("label-robust score", "24.8"), ("augmentation-robust score", "41.8"),
    ]:  # fmt: skip
        lines = [" ".join(line.replace("│", " ").split()) for line in said.splitlines()]
        assert any(line.startswith(f"{row} {figures}") for line in lines), (row, lines)
    assert asked == [
        ("judge", "soft", False, 7), ("judge_random_subsets", "soft", False, 7),
        ("judge", "hard", False, 7), ("judge_all_data", "soft", False, 9),
        ("judge", "soft", True, 7), ("judge_random_subsets", "soft", True, 7),
    ]  # fmt: skip


def test_report_writes_the_page_beside_the_runs_other_files_or_elsewhere(
    finished, tmp_path, capsys
):
    for arguments, path in [
        ([], finished / "report.html"),
        (["--out", str(tmp_path / "page.html")], tmp_path / "page.html"),
    ]:
        path.unlink(missing_ok=True)
        main(["report", str(finished), *arguments])
        assert capsys.readouterr().out == f"written: {path}\n"
        assert "digits, distilled" in path.read_text(encoding="utf-8")


def test_padding_of_nought_is_a_size_like_any_other(finished, monkeypatch):
    from bilevel_distillation import EvaluateConfig, EvaluationConfig
    from bilevel_distillation._judging import _reevaluate

    asked = []
    monkeypatch.setattr(_reevaluate, "judge", lambda config, *a, **k: asked.append(config) or [1.0])
    folder, brief = RunFolder(finished), EvaluationConfig(repeats=1, steps=1)
    config = json.loads(folder.config.read_text())
    folder.write_json(folder.config, config | {"padding": 4})
    try:
        for padding in (None, 0):
            _reevaluate.reevaluate(
                EvaluateConfig(finished, padding=padding, baseline=False, evaluation=brief)
            )
    finally:
        folder.write_json(folder.config, config)
    assert [one.padding for one in asked] == [4, 0]


@pytest.mark.parametrize(
    "arguments",
    [[], ["--help"], *([c, "--help"] for c in ("run", "sweep", "evaluate", "attack"))],
)
def test_help_is_printed_and_free_of_clutter(arguments, capsys):
    with pytest.raises(SystemExit) as ending:
        main(arguments)
    said = capsys.readouterr().out
    assert ending.value.code in (0, None) and "usage: bilevel-distill" in said
    assert "None" not in said
    if arguments[:1] == ["run"]:
        assert "--zca, --no-zca" in said and "--width INT" in said
    if len(arguments) < 2:
        assert all(command in said for command in ("run", "sweep", "evaluate", "attack", "export",
                                             "report"))  # fmt: skip


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out.startswith("bilevel-distill 0.")


def test_mistakes_are_one_sentence_and_status_2(finished, tmp_path, capsys):
    nowhere, out = tmp_path / "nowhere", ["--out", tmp_path / "new"]
    for arguments, sentence in [
        (["run", "--dataset", "digit", *out], "did you mean 'digits'?"),
        (["run", "--depth", 5, *out], "cannot be halved --depth 5 times"),
        (["run", "--zca", *out], "use --no-zca."),
        ([*TINY, "--seed", 9, "--out", finished], "seed is 0 there and 9 here"),
        (["evaluate", nowhere], f"{str(nowhere)!r} does not exist: give a run's folder"),
        (["evaluate", finished, "--no-zca"], "--no-zca is for a set made elsewhere"),
        (["export", nowhere], f"{str(nowhere)!r} holds no run"),
        (["report", nowhere], f"{str(nowhere)!r} holds no run"),
        (["attack", nowhere], f"{str(nowhere)!r} holds no run"),
    ]:
        said = refused(capsys, *arguments)
        assert sentence in said and said.startswith("bilevel-distill: "), said
        assert said.count("\n") == 1 and said.endswith("\n")
    assert not (tmp_path / "new").exists()


def test_words_that_the_command_line_does_not_know_are_said(capsys):
    for arguments, words in [
        (["run", "--method", "magic"], ("--method magic is not known", "rcig")),
        (["run", "--ipc", 0], ("--ipc 0 is too small: give 1 or more.",)),
        (["run", "--widht", 3], ("--widht",)),
        (["distil"], ("distil", "run", "sweep", "evaluate", "attack", "export", "report")),
        (["evaluate"], ("PATH",)),
        (
            ["evaluate", "here", "--steps", 0],
            ("--steps 0 is too small: give 1 or more.",),
        ),
    ]:
        said = " ".join(refused(capsys, *arguments).split())
        assert all(word in said for word in words), said


def test_a_full_disk_is_one_sentence(finished, capsys, monkeypatch):
    from bilevel_distillation import _artifacts

    def full(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_artifacts, "export", full)
    assert "No space left on device" in refused(capsys, "export", finished)


def test_a_folder_of_ones_own_images_in_two_commands(tmp_path, capsys, caplog):
    """Two classes, different sizes, a broken file, and the mistakes on the way."""
    import PIL.Image

    rng = np.random.default_rng(0)
    for name, brightness in (("cats", 60), ("dogs", 190)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(15):
            sides = rng.integers(9, 20, 2)
            pixels = rng.integers(-40, 40, (*sides, 3)) + brightness
            image = PIL.Image.fromarray(pixels.astype(np.uint8))
            image.save(tmp_path / "pets" / name / f"{i}.png")
    (tmp_path / "pets" / "cats" / "3.png").write_bytes(b"no image")
    (tmp_path / "pets" / "notes.txt").write_text("no image either")
    out = tmp_path / "run"
    command = [*TINY, "--dataset", tmp_path / "pets", "--out", out]
    assert "resolution" in refused(capsys, *command)
    command += ["--resolution", "8"]
    assert "--ipc is 20 but class 'cats'" in refused(capsys, *command, "--ipc", "20")
    assert "cannot be halved --depth 9 times" in refused(capsys, *command, "--depth", "9")
    assert not out.exists()
    main([str(argument) for argument in command])
    assert "cats/3.png" in caplog.text and "left out" in caplog.text
    assert "random subset" in capsys.readouterr().out
    page = (out / "report.html").read_text()
    assert "cats" in page and "dogs" in page
