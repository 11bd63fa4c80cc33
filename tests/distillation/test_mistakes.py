"""Mistakes on the command line: each is one sentence in its language, with the remedy, and nothing
is computed. Those of the Python API of the toolkit are in tests/bilevel/test_mistakes.py.
"""

import re

import pytest

from bilevel_distillation._app._cli import main
from bilevel_distillation._app._speech import in_flags

MISTAKES = {
    "run --ipc 0": ("--ipc 0 is too small", "1 or more"),
    "run --method magic": ("--method magic is not known", "rcig"),
    "run --method nowhere:Class": ("--method nowhere:Class", "package.module:Class"),
    "run --widht 3": ("--widht", "perhaps you meant --width"),
    "run --width": ("--width", "--help"),
    "run --iterations many": ("--iterations", "many", "--help"),
    "run --iterations -1": ("--iterations -1 is negative", "0 or more"),
    "run --zca": ("--zca whitens colour images", "use --no-zca"),
    "run --depth 5": ("--depth 5", "--padding", "--resolution"),
    "run --dataset digit": ("--dataset 'digit'", "did you mean 'digits'?"),
    "run --dataset nowhere/at_all/x": ("not a folder", "owner/name"),
    "run --dataset {empty}": ("a folder without data", "subfolder"),
    "run --ipc 2000": ("--ipc is 2000", "at most 116"),
    "run --batch-size 0": ("--batch-size 0", "1 or more"),
    "run --resolution 8": ("is fixed", "leave out --image-column", "and --resolution"),
    "run --average-decay 1": ("--average-decay 1.0", "below 1"),
    "run --coreset-decay 0": ("--coreset-decay 0.0", "at most 1"),
    "run --padding -1": ("--padding -1 is negative", "0 or more"),
    "run --rtol 0": ("--rtol 0.0", "not positive"),
    "run --devices 99": ("--devices 99", "give at most"),
    "run --norm weird": ("--norm", "'batch'", "--help"),
    "run --solve newton": ("--solve", "'linear'", "--help"),
    "run --evaluation.network nonet": ("--evaluation.network nonet", "convnet"),
    "run --evaluation.steps 0": ("--evaluation.steps 0", "1 or more"),
    "run --evaluation.warmup -1": ("--evaluation.warmup -1", "0 or more"),
    "run --samples 5": ("--samples 5", "10 classes"),
    "run --pool-size 0": ("--pool-size 0", "1 or more"),
    "run --seed -1": ("--seed -1 is negative", "0 or more"),
    "run --adam-steps 2.5": ("--adam-steps", "'2.5' is no whole number", "run --help"),
    "run --rtol much": ("--rtol", "'much' is no number"),
    "run --devices two": ("--devices", "'two' is none of", "{all}"),
    "run --adjoint-rtol 0": ("--adjoint-rtol 0.0", "not positive"),
    "run --cg-max-steps 0": ("--cg-max-steps 0", "1 or more"),
    "run --window 300 --method bptt": ("--window 300 is longer", "give at most --window"),
    "run --init magic": ("--init magic", "real, noise, kmeans"),
    "sweep --vary seed": ("--vary 'seed' names no values", "seed=0,1,2"),
    "sweep --vary sed=1,2": ("sed",),
    "sweep --vary seed=0,1 --jobs 0": ("--jobs 0", "1 or more"),
    "evaluate": ("PATH", "a run's folder"),
    "evaluate nowhere": ("'nowhere' does not exist", "give a run's folder"),
    "evaluate nowhere --steps 0": ("--steps 0", "1 or more"),
    "evaluate nowhere --network nonet": ("--network nonet", "convnet"),
    "evaluate {empty}": ("has no distilled.json", "--to hf"),
    "evaluate a b": ("b", "--help"),
    "export nowhere": ("'nowhere' holds no run", "give a run's folder"),
    "export nowhere --to zip": ("--to", "'npz'", "--help"),
    "report nowhere": ("'nowhere' holds no run",),
    "attack nowhere --repeats 0": ("--repeats 0", "1 or more"),
    "distil": ("distil", "evaluate", "datasets"),
    "datasets extra": ("extra", "--help"),
}


@pytest.mark.parametrize("command", MISTAKES)
def test_one_sentence_in_the_language_of_the_command_line(command, tmp_path, capsys):
    empty, out = tmp_path / "empty", tmp_path / "out"
    empty.mkdir()
    words = command.format(empty=empty).split()
    with pytest.raises(SystemExit) as ending:
        main([*words, "--out", str(out)] if words[0] in ("run", "sweep") else words)
    said = capsys.readouterr().err
    assert ending.value.code == 2
    assert said.startswith("bilevel-distill: ") and said.count("\n") == 1 and len(said) < 500
    for word in MISTAKES[command]:
        assert word in said, said
    if words[0] == "run":
        assert not re.search(r"(?<![\w-])[a-z]\w*=\S", said), said
    assert not out.exists()


@pytest.mark.parametrize(
    ("python", "spoken"),
    [
        ("resolution=32 is odd.", "--resolution 32 is odd."),
        ("give storage='host' or batch_size=64.", "give --storage host or --batch-size 64."),
        ("zca=True needs colour.", "--zca needs colour."),
        ("evaluation.augment=False: give it.", "--evaluation.no-augment: give it."),
        ("norm='a b' is odd.", "--norm 'a b' is odd."),
        ("'/a/ipc=3' is a folder.", "'/a/ipc=3' is a folder."),
        (
            "choose another depth, width or padding.",
            "choose another --depth, --width or --padding.",
        ),
        ("the method is what it is.", "the method is what it is."),
    ],
)
def test_flags_in_place_of_arguments(python, spoken):
    assert in_flags(python, "run") == spoken
