"""The distilled set on disk: to the same bits, whole or not at all, and good to train on."""

import dataclasses
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bilevel_distillation import DistilledSet, export, load_hf
from bilevel_distillation.data import Preprocessor, load

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_on_distilled.py"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What `datasets` caches goes with the test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def digits():
    """In the place of a distilled set: the mean image of each class."""
    data = load("digits")
    preprocessor = Preprocessor.fit(data.train_images, zca=False)
    images = preprocessor(data.train_images)
    means = np.stack([images[data.train_labels == digit].mean(0) for digit in range(10)])
    return DistilledSet(
        images=means,
        labels=np.eye(10, dtype=np.float32) - np.float32(0.1),
        classes=np.arange(10, dtype=np.int32),
        class_names=data.class_names,
        preprocessor=preprocessor,
        log_temperature=0.1,
        provenance={"dataset": "digits", "method": "class means", "ipc": 1},
    )


@pytest.fixture(scope="module")
def colour():
    """Whitened, flipped, two images a class, with awkward class names."""
    rng = np.random.default_rng(0)
    preprocessor = Preprocessor.fit(rng.integers(0, 256, (200, 4, 6, 3), np.uint8), zca=True)
    return DistilledSet(
        images=rng.normal(size=(4, 4, 6, 3)).astype(np.float32),
        labels=rng.normal(size=(4, 2)).astype(np.float32),
        classes=np.array([0, 1, 0, 1], np.int32),
        class_names=("T - shirt / top", 'say "yes": | é'),
        preprocessor=preprocessor,
        log_temperature=1 / 3,
        flip=True,
        provenance={"dataset": "noise | more", "rates": [0.1, None], "version": "0.1.0"},
    )


@pytest.fixture(scope="module")
def checkerboard(colour):
    """Whitened as four small images."""
    whitening = np.random.default_rng(1).normal(size=(18, 18)).astype(np.float32)
    preprocessor = dataclasses.replace(colour.preprocessor, whitening=whitening)
    return dataclasses.replace(colour, preprocessor=preprocessor)


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location("train_on_distilled", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_same(a, b):
    for name in ("images", "labels", "classes"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)
    arrays, others = a.preprocessor.to_arrays(), b.preprocessor.to_arrays()
    assert arrays.keys() == others.keys()
    for key in arrays:
        np.testing.assert_array_equal(arrays[key], others[key])
    for name in ("class_names", "log_temperature", "flip", "provenance"):
        assert getattr(a, name) == getattr(b, name)


@pytest.mark.parametrize("which", ["digits", "colour"])
def test_npz_there_and_back_to_the_same_bits(which, request, tmp_path):
    distilled = request.getfixturevalue(which)
    path = export(distilled, tmp_path / "out", "npz")
    assert_same(DistilledSet.load_npz(path), distilled)


@pytest.mark.parametrize("which", ["digits", "colour"])
def test_hf_folder_there_and_back_to_the_same_bits(which, request, tmp_path):
    distilled = request.getfixturevalue(which)
    assert_same(load_hf(export(distilled, tmp_path / "out", "hf")), distilled)


@pytest.mark.parametrize("which", ["digits", "colour"])
def test_datasets_reads_the_folder(which, request, tmp_path):
    import datasets

    distilled = request.getfixturevalue(which)
    rows = datasets.load_dataset(str(export(distilled, tmp_path / "out", "hf")), split="train")
    assert rows.features["label"].names == list(distilled.class_names)
    assert rows.features["image"] == datasets.Image()
    shown = np.stack([np.asarray(row["image"]) for row in rows])
    np.testing.assert_array_equal(shown.reshape(distilled.images.shape), distilled.display_images)
    arrays = rows.with_format("numpy")[:]
    np.testing.assert_array_equal(arrays["pixels"], distilled.images)
    np.testing.assert_array_equal(arrays["soft_label"], distilled.labels)
    assert arrays["pixels"].dtype == np.float32


@pytest.mark.parametrize("which", ["digits", "colour", "checkerboard"])
def test_the_code_in_the_card_runs_and_preprocesses_as_we_do(which, request, tmp_path):
    distilled = request.getfixturevalue(which)
    folder = export(distilled, tmp_path / "out", "hf")
    text = (folder / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.S).group(1)
    names = {}
    exec(code.replace('FOLDER = "."', f"FOLDER = {str(folder)!r}"), names)
    n = len(distilled.images)
    assert names["images"].shape == ((1 + distilled.flip) * n, *distilled.images.shape[1:])
    assert len(names["labels"]) == len(names["images"])
    if distilled.flip:
        np.testing.assert_array_equal(names["images"][n:], distilled.images[:, :, ::-1])
    pictures = np.random.default_rng(1).integers(0, 256, (9, *distilled.images.shape[1:]), np.uint8)
    ours = distilled.preprocessor(pictures)
    assert names["preprocess"](pictures).dtype == np.float32
    np.testing.assert_allclose(names["preprocess"](pictures), ours, atol=2e-5)


def test_card_has_front_matter_and_provenance(colour, tmp_path):
    import yaml

    text = (export(colour, tmp_path / "out", "hf") / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(text.split("---")[1])
    assert header["configs"][0]["data_files"][0]["split"] == "train"
    assert header["task_categories"] == ["image-classification"]
    assert "| dataset | noise \\| more |" in text and "| version | 0.1.0 |" in text


def test_a_numpy_model_trained_on_the_folder_beats_chance(digits, example, tmp_path):
    folder = export(digits, tmp_path / "out", "hf")
    images, soft_labels = example.load_distilled(folder)
    pictures, labels = example.test_digits()
    model = example.RandomFeatureModel(images, soft_labels)
    accuracy = np.mean(model.predict(example.preprocess(pictures, folder)) == labels)
    assert accuracy > 0.8  # chance is 0.1


def test_the_example_tests_on_the_same_digits_as_we_do(example):
    pictures, labels = example.test_digits()
    data = load("digits")
    np.testing.assert_array_equal(pictures, data.test_images)
    np.testing.assert_array_equal(labels, data.test_labels)


def test_the_example_runs_without_jax(digits, tmp_path):
    folder = export(digits, tmp_path / "out", "hf")
    code = (
        "import runpy, sys; sys.modules['jax'] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(EXAMPLE), str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"([\d.]+) %", done.stdout).group(1)) > 80


def test_png_is_one_file_an_image_and_a_contact_sheet(colour, tmp_path):
    import PIL.Image

    folder = export(colour, tmp_path / "out", "png")
    names = sorted(path.name for path in folder.glob("*.png"))
    assert "T_-_shirt_top_000.png" in names and "T_-_shirt_top_001.png" in names
    assert "contact_sheet.png" in names and len(names) == 5
    with PIL.Image.open(folder / "T_-_shirt_top_001.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), colour.display_images[2])


def test_class_names_that_become_the_same_file_name_lose_no_image(colour, tmp_path):
    folder = export(dataclasses.replace(colour, class_names=("a/b", "a:b")), tmp_path / "o", "png")
    assert len(list(folder.glob("a_b_*.png"))) == 4


@pytest.mark.parametrize("to", ["hf", "npz", "png"])
def test_an_earlier_export_is_replaced_and_nothing_is_left_beside_it(digits, to, tmp_path):
    folder = tmp_path / "out"
    export(digits, folder, "png")
    export(digits, folder, to)
    record = json.loads((folder / "distilled.json").read_text())
    present = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert present == record["files"] and record["provenance"] == digits.provenance
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["out"]


def test_a_foreign_folder_is_refused_and_left_alone(digits, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    export(digits, folder, "hf")  # an empty folder is fine
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds 'notes.txt', which no export wrote"):
        export(digits, folder, "hf")
    assert (folder / "notes.txt").read_text() == "mine" and load_hf(folder).classes.size == 10
    with pytest.raises(ValueError, match="a file; give a folder"):
        export(digits, folder / "notes.txt", "npz")


def test_a_failed_export_leaves_the_earlier_one(digits, tmp_path, monkeypatch):
    folder = export(digits, tmp_path / "out", "hf")

    def full(*args):
        raise OSError("no space left")

    monkeypatch.setattr("bilevel_distillation._artifacts._export.draw_images", full)
    with pytest.raises(OSError, match="no space"):
        export(dataclasses.replace(digits, log_temperature=9.0), folder, "hf")
    assert_same(load_hf(folder), digits)
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["out"]


LEFT = {
    ".out.0123abcd.partial": True,
    ".other.0123abcd.partial": False,  # of another place
    ".out.0123.partial": False,
    ".out.fedcba98.partial": False,  # still being written
    ".out.76543210.partial": False,  # holds what no export writes
}


def test_what_killed_exports_left_is_removed_by_the_next_one(digits, tmp_path):
    for name in LEFT:
        export(digits, tmp_path / name, "hf")
        (tmp_path / name / ".README.md.0123abcd.partial").write_text("half")
    (tmp_path / ".out.76543210.partial" / "mine.txt").write_text("mine")
    for path in tmp_path.rglob("*"):
        if "fedcba98" not in str(path):
            os.utime(path, (1e9, 1e9))
    export(digits, tmp_path / "out", "npz")
    assert {name: not (tmp_path / name).exists() for name in LEFT} == LEFT


def test_unknown_form(digits, tmp_path):
    with pytest.raises(ValueError, match="to is 'tar'; choose one of 'hf', 'npz', 'png'"):
        export(digits, tmp_path, "tar")


def test_a_missing_or_damaged_export(digits, tmp_path):
    with pytest.raises(FileNotFoundError, match="has no distilled.json"):
        load_hf(tmp_path)
    folder = export(digits, tmp_path / "out", "hf")
    parquet = next(folder.glob("data/*.parquet"))
    parquet.write_bytes(parquet.read_bytes()[:500])
    with pytest.raises(ValueError, match="is damaged"):
        load_hf(folder)


def test_npz_made_elsewhere(digits, tmp_path):
    path = tmp_path / "theirs.npz"
    np.savez(path, x_proto=digits.images, y_proto=digits.labels, log_temp=np.float32(0.5))
    with pytest.raises(ValueError, match="give preprocessor="):
        DistilledSet.load_npz(path)
    theirs = DistilledSet.load_npz(path, preprocessor=digits.preprocessor)
    np.testing.assert_array_equal(theirs.images, digits.images)
    assert theirs.classes.tolist() == list(range(10)) and theirs.log_temperature == 0.5
    assert theirs.class_names == tuple("0123456789") and theirs.flip is False
    assert DistilledSet.load_npz(path, preprocessor=digits.preprocessor, flip=True).flip is True


def test_npz_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        DistilledSet.load_npz(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ValueError, match="damaged or no npz"):
        DistilledSet.load_npz(tmp_path / "bad.npz")
    np.savez(tmp_path / "other.npz", weights=np.ones(3))
    with pytest.raises(ValueError, match="no array 'images' or 'x_proto', only 'weights'"):
        DistilledSet.load_npz(tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.full((10, 8, 8, 1), np.nan, np.float32)}, "images holds NaN"),
        ({"images": np.zeros((10, 4, 4, 1), np.float32)}, r"images has shape \(10, 4, 4, 1\)"),
        ({"labels": np.zeros((10, 9), np.float32)}, r"labels has shape \(10, 9\)"),
        ({"classes": np.arange(1, 11, dtype=np.int32)}, "classes holds 10, out of range"),
        ({"classes": np.zeros(3, np.int32)}, r"classes has shape \(3,\)"),
        ({"log_temperature": float("inf")}, "log_temperature holds"),
        ({"provenance": {"array": np.ones(2)}}, "provenance cannot be written as JSON"),
    ],
)
def test_bad_distilled_sets(digits, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(digits, **changes)


def test_another_folder_of_the_same_name_gives_its_own_rows(digits, tmp_path):
    import datasets

    few = dataclasses.replace(
        digits, images=digits.images[:3], labels=digits.labels[:3], classes=digits.classes[:3]
    )
    brighter = dataclasses.replace(digits, images=digits.images + 1)
    found = []
    for name, one in (("one", digits), ("two", few), ("three", brighter), ("one", few)):
        folder = export(one, tmp_path / name / "dataset", "hf")
        rows = datasets.load_dataset(str(folder), split="train").with_format("numpy")[:]
        np.testing.assert_array_equal(rows["pixels"], one.images)
        found.append(next(folder.glob("data/*")).name)
    assert found[1] == found[3] and len(set(found)) == 3  # by content, not by place


PARTS = ["distilled.json", "preprocess.npz", "data/*.parquet", "README.md", "distilled.npz"]


@pytest.mark.parametrize("part", PARTS)
def test_no_bit_of_an_export_turns_unnoticed(colour, part, tmp_path):
    to = "npz" if part == "distilled.npz" else "hf"
    export(colour, tmp_path / "out", to)
    (path,) = (tmp_path / "out").glob(part)
    read = load_hf if to == "hf" else lambda folder: DistilledSet.load_npz(folder / part)
    content, rng, told = path.read_bytes(), random.Random(0), 0
    for _ in range(100):
        turned = bytearray(content)
        turned[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(turned)
        try:
            assert_same(read(tmp_path / "out"), colour)
        except ValueError as error:
            told += path.name in str(error) and "is damaged" in str(error)
    assert told > 60 or part == "README.md" and not told


def claim(folder, *names, content="my own work"):
    """Files, and a record that calls them an export's, as the version before wrote it."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    record = {"format": "bilevel-distillation 1", "files": [*names, "distilled.json"],
              "log_temperature": 0, "flip": False, "provenance": {}}  # fmt: skip
    (folder / "distilled.json").write_text(json.dumps(record))


@pytest.mark.parametrize("to", ["hf", "npz", "png"])
@pytest.mark.parametrize(
    "names", [["thesis.txt"], ["notes/thesis.txt"], ["README.md"], ["cat_001.png"], ["../out"],
              ["data/train-00000-of-00001.parquet"]],
)  # fmt: skip
def test_a_record_alone_makes_no_file_an_exports_own(digits, to, names, tmp_path):
    folder = tmp_path / "claims"
    claim(folder, *names)
    with pytest.raises(ValueError, match="no export wrote|of an earlier version"):
        export(digits, folder, to)
    assert all((folder / name).read_text() == "my own work" for name in names)
    assert (folder / "distilled.json").exists()


def test_what_was_changed_or_linked_in_an_export_is_not_replaced(digits, tmp_path):
    folder = export(digits, tmp_path / "out", "hf")
    card = folder / "README.md"
    before = card.read_text(encoding="utf-8")
    card.write_text(before + "my notes", encoding="utf-8")
    with pytest.raises(ValueError, match="holds 'README.md', which is not as the export wrote it"):
        export(digits, folder, "hf")
    assert "my notes" in card.read_text(encoding="utf-8")
    card.unlink()
    (tmp_path / "card").write_text(before, encoding="utf-8")
    card.symlink_to(tmp_path / "card")
    with pytest.raises(ValueError, match="README.md"):
        export(digits, folder, "hf")
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(ValueError, match="a link; give the folder itself"):
        export(digits, tmp_path / "link", "hf")
    (folder / "elsewhere").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="README.md|elsewhere"):
        export(digits, folder, "hf")


def test_an_export_of_the_version_before_is_read(digits, tmp_path):
    folder = export(digits, tmp_path / "out", "hf")
    record = json.loads((folder / "distilled.json").read_text())
    rows = next(name for name in record["files"] if name.endswith(".parquet"))
    old = "data/train-00000-of-00001.parquet"
    (folder / rows).rename(folder / old)
    np.savez(folder / "preprocess.npz", **digits.preprocessor.to_arrays())
    files = [old if name == rows else name for name in record["files"]]
    record |= {"format": "bilevel-distillation 1", "files": files}
    del record["checksum"], record["checksums"]
    (folder / "distilled.json").write_text(json.dumps(record))
    assert_same(load_hf(folder), digits)
    with pytest.raises(ValueError, match="an export of an earlier version"):
        export(digits, folder, "hf")
    assert_same(load_hf(folder), digits)


@pytest.mark.parametrize(
    "names",
    [("fee_$1_up_$2", "over $9_{"), ("x" * 250, "é" * 200), ("a/b", ".."), ("Cat", "cat"),
     ("<b>bold</b>", "| a\n| b"), ("\udcff", "\u202eleft"), ("CON", " "), ("é", "e\u0301")],
)  # fmt: skip
def test_whatever_classes_are_called(colour, names, tmp_path):
    one = dataclasses.replace(colour, class_names=names)
    folder = export(one, tmp_path / "png", "png")
    pictures = {path.name.casefold() for path in folder.glob("*_0*.png")}
    assert len(pictures) == 4 and all(len(os.fsencode(name)) < 256 for name in pictures)
    assert DistilledSet.load_npz(export(one, tmp_path / "npz", "npz")).class_names == names
    if "\udcff" not in names:
        assert load_hf(export(one, tmp_path / "hf", "hf")).class_names == names


@pytest.mark.parametrize(
    "name",
    ["fotos \N{FOX FACE}", "a: 'b' \"c\" #d", "caf\u00e9\u2028x", "--- x", "- [a]", "x" * 300,
     "null", "my <script>alert(1)</script><img src=x onerror=y>", "\udcff",
     "$x_1$ | `code` **bold** ![](x)"],
)  # fmt: skip
def test_the_card_of_a_data_set_of_any_name(digits, name):
    import yaml

    from bilevel_distillation._artifacts._card import card

    text = card(
        dataclasses.replace(digits, provenance={"dataset": f"data {name}"}), "data/x.parquet"
    )
    assert text.encode("utf-8").decode() == text
    _, header, body = re.split(r"^---$", text, maxsplit=2, flags=re.M)
    fields = yaml.safe_load(header)
    shown = " ".join(name.rpartition("/")[2].split()).replace("\udcff", "\ufffd")
    assert shown in fields["pretty_name"] and "\n" not in fields["pretty_name"]
    assert fields["configs"][0]["data_files"] == [{"split": "train", "path": "data/x.parquet"}]
    body = body.replace("![The images, as they look](preview.png)", "")
    assert not any(mark in body for mark in ("<script", "<img", "![](", "**bold", "[x](", " $x_1$"))
