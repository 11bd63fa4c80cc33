"""Folders of pictures: whatever their formats, names and layout, each picture is used or named."""

import io
import logging
import os
import warnings

import numpy as np
import PIL.Image
import pytest

from bilevel_distillation.data import load

SIZE = 8


def picture(seed=0, mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    return PIL.Image.fromarray(pixels).convert(mode)


def saved(kind, mode="RGB", **options):
    file = io.BytesIO()
    picture(1, mode).save(file, kind, **options)
    return file.getvalue()


def of_values(values, kind="PNG"):
    file = io.BytesIO()
    PIL.Image.fromarray(values).save(file, kind)
    return file.getvalue()


def sixteen_bit_colour():
    """A PNG that Pillow cannot write."""
    import struct
    import zlib

    def part(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + bytes(SIZE * 6) for _ in range(SIZE))
    head = struct.pack(">IIBBBBB", SIZE, SIZE, 16, 2, 0, 0, 0)
    whole = part(b"IHDR", head) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + whole


WORDS = np.arange(SIZE * SIZE).reshape(SIZE, SIZE)
USED = {
    "plain.png": saved("PNG"),
    "UPPER.PNG": saved("PNG"),
    "photo.jpg": saved("JPEG"),
    "photo.JPEG": saved("JPEG"),
    "bitmap.bmp": saved("BMP"),
    "web.webp": saved("WEBP"),
    "new.avif": saved("AVIF"),
    "scan.tif": saved("TIFF"),
    "two.jp2": saved("JPEG2000"),
    "net.ppm": saved("PPM"),
    "old.tga": saved("TGA"),
    "older.pcx": saved("PCX"),
    "silicon.sgi": saved("SGI"),
    "gif.gif": saved("GIF", "P"),
    "gray.png": saved("PNG", "L"),
    "bits.png": saved("PNG", "1"),
    "palette.png": saved("PNG", "P"),
    "cmyk.jpg": saved("JPEG", "CMYK"),
    "no ending": saved("JPEG"),
    "wrong.png": saved("JPEG"),
    "other.jpg_large": saved("JPEG"),
    "train-001.png": saved("PNG"),
    "test.val.png": saved("PNG"),
    "[ab]*?.png": saved("PNG"),
    "a::b.png": saved("PNG"),
    "$x_1$ & <b>#%.png": saved("PNG"),
    "-dash.png": saved("PNG"),
    "caf\u00e9 \U0001f98a.png": saved("PNG"),
    "line\nbreak.png": saved("PNG"),
    "x" * 240 + ".png": saved("PNG"),
    os.fsdecode(b"latin-\xe9.png"): saved("PNG"),
}
USED_AND_NAMED = {
    "clear.png": of_values(np.full((SIZE, SIZE, 4), 99, np.uint8)),
    "clear-palette.png": saved("PNG", "P", transparency=bytes([0] * 128 + [255] * 128)),
    "deep.png": of_values(WORDS.astype(np.uint16)),
    "signed.tif": of_values(WORDS.astype(np.int32) - 9, "TIFF"),
    "real.tif": of_values(WORDS.astype(np.float32), "TIFF"),
    "moving.gif": saved("GIF", save_all=True, append_images=[picture(2)]),
    "pages.tif": saved("TIFF", save_all=True, append_images=[picture(2)]),
    "deep-colour.png": sixteen_bit_colour(),
}
NAMED = {
    "phone.heic": b"\0\0\0\x18ftypheic" + bytes(64),
    "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "post.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n",
    "empty.png": b"",
    "half.png": saved("PNG")[:60],
    "numbers.npy": b"\x93NUMPY" + bytes(40),
    ".hidden.png": saved("PNG"),
    "more.zip": b"PK\x05\x06" + bytes(18),
}
SILENT = {"notes.txt": b"by hand", "Thumbs.db": b"\0", "labels.csv": b"a,b"}


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def fill(root, *folders, n=10):
    """Folders with pictures of their own."""
    for k, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            picture(1000 * k + i).save(root / folder / f"{i:03d}.png")
    return root


def held(root, **options):
    data = load(root, **options)
    return data.class_names, len(data.train_labels) + len(data.test_labels)


def test_every_picture_of_a_torture_folder_is_used_or_named(tmp_path, caplog):
    root = fill(tmp_path / "torture", "b", n=60)
    write(root / "a", USED | USED_AND_NAMED | NAMED | SILENT)
    assert len(USED | USED_AND_NAMED | NAMED) > 40
    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load(root)
    assert data.class_names == ("a", "b")
    count = np.bincount(np.concatenate([data.train_labels, data.test_labels]))
    assert count.tolist() == [len(USED) + len(USED_AND_NAMED), 60]
    said = [record.getMessage() for record in caplog.records]
    for what, names in {
        "cannot be decoded": ("phone.heic", "drawing.svg", "post.eps", "empty.png", "half.png"),
        "no pictures": ("numbers.npy", "more.zip"),
        "hidden": (".hidden.png",),
        "transparent": ("clear.png", "clear-palette.png"),
        "several frames": ("moving.gif", "pages.tif"),
        "16 bits a colour": ("deep-colour.png",),
    }.items():
        (one,) = [message for message in said if what in message]
        assert all(name in one for name in names), one
    (deep,) = [message for message in said if "more than 8 bits" in message]
    assert deep.startswith("3 of ") and "-9 to 63" in deep
    assert not any(name in " ".join(said) for name in SILENT)


def test_no_picture_is_lost_among_many_broken_ones(tmp_path):
    root = fill(tmp_path / "set", "a", "b")
    write(root / "a", {f"{i}.heic": b"\0\0\0\x18ftypheic" for i in range(3)})
    with pytest.raises(ValueError, match=r"3 of 23 images .* a/0.heic"):
        load(root)


LAYOUTS = {
    "classes named like splits": (("train_x", "train_y", "val"), ("train_x", "train_y", "val"), ()),
    "splits in any case": (("Train/a", "Train/b", "TEST/a", "TEST/b"), ("a", "b"), ()),
    "a class called test": (("test", "car"), ("car", "test"), ()),
    "a folder around all": (("new/photos/a", "new/photos/b"), ("a", "b"), ()),
    "splits in a folder": (("set/train/a", "set/train/b", "set/valid/b"), ("a", "b"), ("'a'",)),
    "a class in parts": (("a", "b/1", "b/2"), ("a", "b"), ("'b'", "parts")),
    "a folder in each": (("a/images", "b/images"), ("a", "b"), ()),
    "a third split": (
        ("train/a", "train/b", "test/a", "test/b", "dev/a"), ("a", "b"), ("validation", "10 "),
    ),
    "another folder beside splits": (
        ("train/a", "train/b", "test/a", "test/b", "extra/c"), ("a", "b"), ("'extra'", "10 "),
    ),
    "unlabelled test pictures": (("train/a", "train/b", "test"), ("a", "b"), ("'test'", "10 ")),
    "glob characters": (("[a]*", "b::c?"), ("[a]*", "b::c?"), ()),
    "names that differ by case": (
        ("Cat", "cat", "CAT", "c at"), ("CAT", "Cat", "c at", "cat"), ("'CAT', 'Cat', 'c at'",),
    ),
    "names that are the same text": (
        ("caf\u00e9", "cafe\u0301", "b"), ("b", "caf\u00e9"), ("taken as one class",),
    ),
    "the same text in each split": (
        ("train/caf\u00e9", "train/b", "test/cafe\u0301", "test/b"), ("b", "caf\u00e9"), (),
    ),
    "a test split alone": (("test/a", "test/b"), ("a", "b"), ("'test', is trained on",)),
    "test pictures in a folder": (
        ("train/a", "train/b", "test/images"), ("a", "b"), ("'test'", "10 "),
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_that_are_clear(tmp_path, caplog, layout):
    folders, names, words = LAYOUTS[layout]
    root = fill(tmp_path / "set[1]*::x", *folders)
    with caplog.at_level(logging.WARNING):
        found = held(root)
    unused = any("not used" in record.getMessage() for record in caplog.records)
    assert found == (names, 10 * len(folders) - 10 * unused)
    for word in words:
        assert any(word in record.getMessage() for record in caplog.records), word
    if not words:
        assert all("held out" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("animals/cat", "animals/dog", "toys/cat"), r"'animals', 'toys' or .*'cat'.* move"),
        (("bus", "train/steam", "train/diesel"), r"'train' that holds folders.* 'bus'.* move"),
        (("train/a", "Training/b"), r"two folders for the split 'train', .* put them together"),
        (("a",), r"one class alone, 'a'"),
        (("train/a", "test/a"), r"one class alone, 'a'"),
        ((".",), r"10 pictures and no class folders: put"),
    ],
)
def test_layouts_that_are_not_clear_are_refused(tmp_path, folders, message):
    with pytest.raises(ValueError, match=message):
        load(fill(tmp_path / "set", *folders))


def test_pictures_beside_the_class_folders_are_named_or_too_many(tmp_path, caplog):
    root = fill(tmp_path / "set", "a", "b")
    picture().save(root / "cover.png")
    assert held(root) == (("a", "b"), 20)
    assert "1 pictures" in caplog.text and "'cover.png'" in caplog.text
    fill(tmp_path, "set", n=3)
    with pytest.raises(ValueError, match=r"4 pictures .* lie in no class folder"):
        load(root)


@pytest.mark.parametrize("ending", [".npy", ".zip", ".heic", ".svg"])
def test_a_class_without_a_readable_picture_is_an_error(tmp_path, ending):
    root = fill(tmp_path / "set", "a", "b", n=40)
    write(root / "cobalt", {f"{i}{ending}": b"nothing" for i in range(3)})
    with pytest.raises(ValueError, match=f"cobalt.*{ending}|'cobalt'.* can be decoded"):
        load(root)


def test_an_empty_class_folder_is_named(tmp_path, caplog):
    root = fill(tmp_path / "set", "a", "b", "other/c", "other/d")
    (root / "cobalt").mkdir()
    (root / "docs").mkdir()
    (root / "docs" / "read.txt").write_text("x")
    assert held(root)[0] == ("a", "b", "other")
    assert "'cobalt'" in caplog.text and "'docs'" in caplog.text


@pytest.mark.parametrize("archive", ["set.zip", "set.tar.gz"])
def test_archives_are_to_be_unpacked(tmp_path, archive):
    write(tmp_path / "set", {archive: b"PK"})
    for path in (tmp_path / "set", tmp_path / "set" / archive):
        with pytest.raises(ValueError, match="unpack"):
            load(path)


def test_class_names_that_are_no_text(tmp_path):
    root = fill(tmp_path / "set", "a", os.fsdecode(b"caf\xe9"))
    names, count = held(root)
    assert names == ("a", "caf\\xe9") and count == 20


def test_tables_beside_pictures_hide_none_of_them(tmp_path, caplog):
    import datasets

    root = fill(tmp_path / "set", "a", "b")
    for name in ("scores.parquet", "a/train.parquet"):
        datasets.Dataset.from_dict({"score": [1.0], "file": ["000.png"]}).to_parquet(root / name)
    (root / "state.json").write_text("{}")
    assert held(root) == (("a", "b"), 20)
    assert "'a/train.parquet', 'scores.parquet'" in caplog.text


def test_pictures_that_links_double_are_named(tmp_path, caplog):
    root = fill(tmp_path / "set", "train/a", "train/b")
    (root / "test").symlink_to("train")
    (root / "train" / "a" / "again.png").symlink_to("../b/000.png")
    assert held(root)[1] == 42
    assert "'test -> train'" in caplog.text
    assert "'train/a/again.png -> train/b/000.png'" in caplog.text


def test_what_systems_put_beside_the_data_is_no_class(tmp_path, caplog):
    root = fill(tmp_path / "set", "a", "b", "@eaDir", "a/@eaDir/000.png", "__MACOSX/a")
    write(root / "a", {"._000.png": b"\0\5\26\7", ".DS_Store": b"\0", "desktop.ini": b""})
    assert held(root) == (("a", "b"), 20)
    assert "31 hidden pictures" in caplog.text
