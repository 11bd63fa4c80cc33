"""What metadata.csv and its like say of pictures: used as it is written, or named."""

import csv
import json
import unicodedata

import numpy as np
import PIL.Image
import pytest

from bilevel_distillation.data import load


def picture(seed):
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8))


def fill(root, *folders, n=10):
    """Folders with pictures of their own."""
    for k, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            picture(1000 * k + i).save(root / folder / f"{i:03d}.png")
    return root


def held(root):
    data = load(root)
    return data.class_names, len(data.train_labels) + len(data.test_labels)


PLACES = [(c, i) for c in "ab" for i in range(10)]
METADATA = {
    "metadata.csv": "file_name,site\n"
    + "".join(f"{c}/{i:03d}.png,{'NS'[i % 2]}\n" for c, i in PLACES),
    "metadata.jsonl": "".join(
        f'{{"file_name": "{c}/{i:03d}.png", "label": "{i % 2}"}}\n' for c, i in PLACES
    ),
}


@pytest.mark.parametrize("name", METADATA)
def test_class_folders_stay_the_classes_beside_metadata(tmp_path, caplog, name):
    root = fill(tmp_path / "set", "a", "b")
    (root / name).write_text(METADATA[name])
    assert held(root) == (("a", "b"), 20)
    assert ("'label'" in caplog.text) == (name == "metadata.jsonl")
    if name == "metadata.csv":
        data = load(root, label_column="site")
        assert data.class_names == ("N", "S") and np.bincount(data.train_labels).min() > 5


def classed(place="", n=10):
    return [f"{place}{i:03d}.png,{'ill' if i % 2 else 'healthy'}\n" for i in range(n)]


def table(*rows):
    return "file_name,label\n" + "".join(rows)


PLACED = {
    "beside them": ((".",), {"metadata.csv": table(*classed())}),
    "in capitals": ((".",), {"Metadata.CSV": table(*classed()).replace("\n", "\r\n")}),
    "above one folder": (("images",), {"metadata.csv": table(*classed("./images/"))}),
    "in one folder": (("images",), {"images/metadata.csv": table(*classed())}),
    "by Windows": (("images",), {"metadata.csv": table(*classed("images\\"))}),
    "in two files": (
        (".",),
        {
            "metadata.csv": table(*classed()[:6]),
            "metadata.jsonl": "".join(
                json.dumps(dict(zip(("file_name", "label"), row.strip().split(","), strict=True)))
                + "\n" for row in classed()[4:]
            ),
        },
    ),
    "in each split": (
        ("train", "test"),
        {f"{split}/metadata.csv": table(*classed()) for split in ("train", "test")},
    ),
    "above the splits": (
        ("Train", "VAL"), {"metadata.csv": table(*classed("Train/"), *classed("VAL/"))},
    ),
}  # fmt: skip


@pytest.mark.parametrize("placed", PLACED)
def test_metadata_names_the_classes_of_pictures_without_folders(tmp_path, caplog, placed):
    folders, files = PLACED[placed]
    root = fill(tmp_path / "set", *folders)
    for name, text in files.items():
        (root / name).write_bytes(text.encode())
    assert held(root) == (("healthy", "ill"), 10 * len(folders))
    if len(folders) == 2:
        assert len(load(root).test_labels) == 10
    assert all("held out" in record.getMessage() for record in caplog.records)


LABELS = {
    "digits that are names": (("007", "7", "010"), ("007", "010", "7")),
    "numbers": (("10", "9", "0"), ("0", "9", "10")),
    "truths": (("true", "false"), ("false", "true")),
    "days": (("2020-02-01", "2020-01-01"), ("2020-01-01", "2020-02-01")),
    "nothing": (("NA", "null", "None"), ("NA", "None", "null")),
    "quotes and commas": (('a,"b"', "c\nd"), ('a,"b"', "c\nd")),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_in_metadata_are_taken_as_they_are_written(tmp_path, kind):
    written, names = LABELS[kind]
    root = fill(tmp_path / "set", ".", n=18)
    with (root / "metadata.csv").open("w", newline="", encoding="utf-8-sig") as file:
        rows = [(f"{i:03d}.png", written[i % len(written)]) for i in range(18)]
        csv.writer(file).writerows([("file_name", "label"), *rows])
    data = load(root, train_split="train")
    assert data.class_names == names
    labels = np.concatenate([data.train_labels, data.test_labels])
    images = np.concatenate([data.train_images, data.test_images])
    ids = [names.index(written[i % len(written)]) for i in range(18)]
    for i, label in enumerate(ids):  # each with its own picture
        image = np.asarray(PIL.Image.open(root / f"{i:03d}.png"))
        (found,) = np.flatnonzero((images == image).all((1, 2, 3)))
        assert labels[found] == label


def test_names_in_metadata_match_files_whose_accents_are_written_differently(tmp_path):
    names = [f"caf\u00e9{i}.png" for i in range(10)]
    (tmp_path / "set").mkdir()
    for i, name in enumerate(names):
        picture(i).save(tmp_path / "set" / unicodedata.normalize("NFD", name))
    rows = "".join(f"{name},{'ab'[i % 2]}\n" for i, name in enumerate(names))
    (tmp_path / "set" / "metadata.csv").write_text("file_name,label\n" + rows, encoding="utf-8")
    assert held(tmp_path / "set") == (("a", "b"), 10)


def test_pictures_that_metadata_leave_without_a_label_are_named_or_too_many(tmp_path, caplog):
    root = fill(tmp_path / "set", ".", n=20)
    rows = [f"{i:03d}.png,{'ab'[i % 2]}\n" for i in range(20)]
    (root / "metadata.csv").write_text("file_name,label\n" + "".join(rows[1:19]) + "000.png,\n")
    assert held(root) == (("a", "b"), 18)
    assert "2 pictures" in caplog.text and "'000.png', '019.png'" in caplog.text
    (root / "metadata.csv").write_text("file_name,label\n" + "".join(rows[:9]))
    with pytest.raises(ValueError, match=r"11 pictures .* no label in the metadata .* add one"):
        load(root)


def test_metadata_that_contradict_themselves_are_said(tmp_path, caplog):
    root = fill(tmp_path / "set", ".")
    (root / "metadata.csv").write_text(table(*classed(), "000.png,ill\n"))
    assert held(root) == (("healthy", "ill"), 10)
    assert "1 files differently" in caplog.text and "'000.png'" in caplog.text


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "\0\xff", "", "file_name;label\n0;1\n"])
def test_metadata_that_describes_no_pictures_is_said(tmp_path, caplog, content):
    root = fill(tmp_path / "set", "a", "b")
    (root / "metadata.csv").write_text(content)
    assert held(root) == (("a", "b"), 20)
    assert "'metadata.csv'" in caplog.text and "not used" in caplog.text
