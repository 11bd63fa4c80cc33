"""Loading data sets: what is read, what is found, and what is refused."""

import dataclasses
import logging

import numpy as np
import pytest

from bilevel_distillation.data import PRESETS, ImageData, check_images_per_class, load


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What `datasets` caches goes with the test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def pictures(n, height=6, width=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), np.uint8)


def save_folder(folder, images, labels):
    """One PNG an image, in a subfolder for each class."""
    import PIL.Image

    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        image = image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)
        image.save(folder / label / f"{i:03d}.png")
    return str(folder)


def save_parquet(folder, features=None, **splits):
    import datasets

    folder.mkdir()
    for split, columns in splits.items():
        rows = datasets.Dataset.from_dict(columns, features=features)
        rows.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return str(folder)


def features(**columns):
    import datasets

    return datasets.Features(columns)


def image_and(label):
    import datasets

    return features(image=datasets.Image(), label=label)


def png(image):
    import io

    import PIL.Image

    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def an_image_data(**changes):
    given = {
        "name": "noise",
        "train_images": pictures(4),
        "train_labels": np.array([0, 1, 0, 1], np.int32),
        "test_images": pictures(2),
        "test_labels": np.array([0, 1], np.int32),
        "class_names": ("no", "yes"),
    }
    return ImageData(**(given | changes))


def test_digits_are_scikit_learns_rescaled_with_a_fixed_stratified_split():
    from sklearn.datasets import load_digits

    data, source = load("digits"), load_digits()
    assert data.image_shape == (8, 8, 1) and data.classes == 10
    assert len(data.train_images) == 1201 and len(data.test_images) == 596
    assert set(np.bincount(data.test_labels)) <= {58, 59, 60, 61}
    assert data.train_images.min() == 0 and data.train_images.max() == 255
    threes = np.rint(source.images[source.target == 3] * 255 / 16)
    np.testing.assert_array_equal(data.test_images[data.test_labels == 3][..., 0], threes[2::3])


def test_digits_take_no_options():
    with pytest.raises(ValueError, match="leave out"):
        load("digits", resolution=16)


def test_folder_of_images_with_a_fifth_held_out(tmp_path, caplog):
    images, labels = pictures(20), ["cat", "dog"] * 10
    with caplog.at_level(logging.WARNING):
        data = load(save_folder(tmp_path / "pets", images, labels))
    assert "no test split" in caplog.text
    assert data.name == "pets" and data.class_names == ("cat", "dog")
    assert data.image_shape == (6, 6, 3)
    assert np.bincount(data.test_labels).tolist() == [2, 2] and len(data.train_labels) == 16
    both = np.concatenate([data.train_images, data.test_images])
    assert {image.tobytes() for image in both} == {image.tobytes() for image in images}
    cats = {image.tobytes() for image in images[::2]}
    assert {image.tobytes() for image in data.train_images[data.train_labels == 0]} < cats


def test_parquet_with_class_labels_and_a_split_called_valid(tmp_path):
    import datasets

    train, valid = pictures(6), pictures(3, seed=1)
    folder = save_parquet(
        tmp_path / "set",
        image_and(datasets.ClassLabel(names=["a", "b", "c"])),
        train={"image": [png(i) for i in train], "label": [2, 0, 1, 2, 0, 1]},
        valid={"image": [png(i) for i in valid], "label": [0, 1, 2]},
    )
    data = load(folder)
    np.testing.assert_array_equal(data.train_images, train)
    np.testing.assert_array_equal(data.test_images, valid)
    assert data.train_labels.tolist() == [2, 0, 1, 2, 0, 1] and data.train_labels.dtype == np.int32


@pytest.mark.parametrize(
    ("values", "dtype", "names"),
    [
        (["pear", "fig", "pear", "fig"], "string", ("fig", "pear")),
        ([10, 9, 10, 9], "int64", ("9", "10")),
    ],
)
def test_plain_labels_become_sorted_class_names(tmp_path, values, dtype, names):
    import datasets

    columns = {"image": [png(i) for i in pictures(4)], "label": values}
    folder = save_parquet(
        tmp_path / "set", image_and(datasets.Value(dtype)), train=columns, test=columns
    )
    data = load(folder)
    assert data.class_names == names
    assert data.train_labels.tolist() == [1, 0, 1, 0]


def test_named_set_is_read_from_bilevel_data(tmp_path, monkeypatch):
    import datasets

    columns = {"img": [png(i) for i in pictures(2)], "label": [0, 1]}
    kinds = features(img=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
    save_parquet(tmp_path / "cifar10", kinds, train=columns, test=columns)
    monkeypatch.setenv("BILEVEL_DATA", str(tmp_path))
    data = load("cifar10")
    assert data.name == "cifar10" and data.class_names == ("a", "b")


def test_named_set_without_folder_or_network_says_what_to_do(tmp_path, monkeypatch):
    import datasets

    def unreachable(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    monkeypatch.setenv("BILEVEL_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"'mnist' was not found.*BILEVEL_DATA"):
        load("mnist")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnits", "did you mean 'mnist'"),
        ("Fashion-MNIST", "did you mean 'fashion_mnist'"),
        ("zzzz", "the names are digits, mnist, .*; for other data give a folder"),
        ("./no/such/folder", "is not a folder"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(FileNotFoundError, match=message):
        load(name)


def test_every_preset_names_an_owner():
    assert all(preset.hub.count("/") == 1 for preset in PRESETS.values())


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("mnist", (28, 28), (28, 28, 1)),
        ("fashion_mnist", (28, 28), (28, 28, 1)),
        ("cifar10", (32, 32), (32, 32, 3)),
        ("cifar100", (32, 32), (32, 32, 3)),
        ("tiny_imagenet", (64, 64), (64, 64, 3)),
        ("cub200", (50, 40), (32, 32, 3)),
        ("imagenette", (160, 213), (128, 128, 3)),
        ("imagewoof", (160, 160), (128, 128, 3)),
        ("imagenet64", (64, 64), (64, 64, 3)),
    ],
)
def test_presets_read_folders_laid_out_as_on_the_hub(tmp_path, monkeypatch, name, size, expected):
    import datasets

    preset = PRESETS[name]
    images = pictures(4, *size)
    if expected[2] == 1:
        images[...] = images[..., :1]
    classes = datasets.ClassLabel(names=["one", "other"])
    columns = {preset.image_column: datasets.Image(), preset.label_column: classes}
    rows = {preset.image_column: [png(i) for i in images], preset.label_column: [0, 1, 0, 1]}
    if name == "cifar100":
        columns["coarse_label"], rows["coarse_label"] = classes, [0] * 4
    splits = {preset.train_split: rows, preset.test_split: rows}
    save_parquet(tmp_path / name, features(**columns), **splits)
    monkeypatch.setenv("BILEVEL_DATA", str(tmp_path))
    data = load(name)
    assert data.image_shape == expected and data.class_names == ("one", "other")
    np.testing.assert_array_equal(data.test_labels, [0, 1, 0, 1])
    if size == expected[:2]:
        np.testing.assert_array_equal(data.train_images[..., :1], images[..., :1])


def test_uneven_sizes_are_named_and_resolution_crops_the_middle(tmp_path):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = (250, 0, 0)
    images = [wide] * 5 + list(pictures(5, 16, 16))
    folder = save_folder(tmp_path / "set", images, ["a"] * 5 + ["b"] * 5)
    with pytest.raises(ValueError, match=r"8 x 24.*16 x 16.*resolution="):
        load(folder)
    data = load(folder, resolution=8)
    assert data.image_shape == (8, 8, 3)
    assert (data.train_images[data.train_labels == 0] == (250, 0, 0)).all()


def test_gray_pictures_among_colour_ones_get_three_channels(tmp_path):
    gray = np.random.default_rng(0).integers(0, 256, (5, 6, 6), np.uint8)
    data = load(save_folder(tmp_path / "set", [*gray, *pictures(5)], ["a"] * 5 + ["b"] * 5))
    assert data.image_shape == (6, 6, 3)
    a = data.train_images[data.train_labels == 0]
    np.testing.assert_array_equal(a, np.repeat(a[..., :1], 3, axis=3))


def test_gray_throughout_is_one_channel_even_if_stored_as_colour(tmp_path):
    gray = np.random.default_rng(0).integers(0, 256, (10, 6, 6, 1), np.uint8)
    stored = [np.repeat(i, 3, 2) if n % 2 else i[..., 0] for n, i in enumerate(gray)]
    data = load(save_folder(tmp_path / "set", stored, ["a", "b"] * 5))
    assert data.image_shape == (6, 6, 1)
    assert {i.tobytes() for i in data.train_images} < {i.tobytes() for i in gray}


def test_palette_and_transparent_pictures(tmp_path):
    import PIL.Image

    source = PIL.Image.fromarray(pictures(1)[0])
    folder = save_folder(
        tmp_path / "set",
        [source.convert(m) for m in ("P", "RGBA", "RGB") for _ in "12345"],
        [m for m in ("p", "rgba", "rgb") for _ in "12345"],
    )
    data = load(folder)
    np.testing.assert_array_equal(
        data.train_images[data.train_labels == 2][0], data.train_images[data.train_labels == 1][0]
    )


def test_no_image_column(tmp_path):
    folder = save_parquet(tmp_path / "set", train={"text": ["a", "b"], "label": [0, 1]})
    with pytest.raises(ValueError, match=r"no image column among 'text', 'label'.*image_column="):
        load(folder)


def test_no_label_column(tmp_path):
    import datasets

    columns = {"image": [png(i) for i in pictures(2)], "weight": [0.5, 1.5]}
    kinds = features(image=datasets.Image(), weight=datasets.Value("float32"))
    folder = save_parquet(tmp_path / "set", kinds, train=columns)
    with pytest.raises(ValueError, match=r"no label column among 'image', 'weight'"):
        load(folder)
    with pytest.raises(ValueError, match=r"label_column is 'weight'"):
        load(folder, label_column="weight")


def test_column_or_split_that_is_not_there(tmp_path):
    import datasets

    columns = {"image": [png(i) for i in pictures(2)], "label": [0, 1]}
    folder = save_parquet(
        tmp_path / "set", image_and(datasets.Value("int64")), train=columns, test=columns
    )
    with pytest.raises(ValueError, match=r"image_column is 'photo'.*'image', 'label'"):
        load(folder, image_column="photo")
    with pytest.raises(ValueError, match=r"train_split is 'all'.*'train', 'test'"):
        load(folder, train_split="all")
    with pytest.raises(ValueError, match="the split that is trained on"):
        load(folder, test_split="train")


def test_unlabelled_test_split(tmp_path):
    import datasets

    images = [png(i) for i in pictures(2)]
    folder = save_parquet(
        tmp_path / "set",
        image_and(datasets.ClassLabel(names=["a", "b"])),
        train={"image": images, "label": [0, 1]},
        test={"image": images, "label": [-1, -1]},
    )
    with pytest.raises(ValueError, match=r"'label' of split 'test'.*holds -1.*test_split="):
        load(folder)


def test_damaged_image_is_named_by_its_row(tmp_path):
    import datasets

    images = [png(i) for i in pictures(3)]
    images[1] = {"bytes": images[1]["bytes"][:40], "path": None}
    columns = {"image": images, "label": [0, 1, 0]}
    folder = save_parquet(
        tmp_path / "set", image_and(datasets.Value("int64")), train=columns, test=columns
    )
    with pytest.raises(ValueError, match=r"1 of 3 images of split 'test' .* row 1 .* repair"):
        load(folder)


def test_a_few_damaged_files_are_left_out_and_named(tmp_path, caplog):
    images = pictures(30)
    images[:15, ..., 0], images[15:, ..., 0] = 0, 255  # the classes can be told apart
    folder = save_folder(tmp_path / "set", images, ["a"] * 15 + ["b"] * 15)
    (tmp_path / "set" / "a" / "003.png").write_bytes(b"no image")
    with caplog.at_level("WARNING"):
        data = load(folder)
    assert "1 of 30 images of split 'train'" in caplog.text and "a/003.png" in caplog.text
    assert len(data.train_labels) + len(data.test_labels) == 29
    for split in ("train", "test"):
        pixels, labels = getattr(data, f"{split}_images"), getattr(data, f"{split}_labels")
        assert (pixels[:, 0, 0, 0] == np.array([0, 255])[labels]).all()


def test_folder_without_data(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match="empty"):
        load(str(tmp_path / "empty"))
    (tmp_path / "file.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="give the folder"):
        load(str(tmp_path / "file.parquet"))


def test_too_few_images_in_a_class():
    data = an_image_data(train_labels=np.array([0, 0, 0, 1], np.int32))
    check_images_per_class(data, 1)
    with pytest.raises(ValueError, match=r"ipc is 2 but class 'yes'.* has 1 .*at most 1"):
        check_images_per_class(data, 2)
    with pytest.raises(ValueError, match="ipc is 0"):
        check_images_per_class(data, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": np.array([0, 1, 2, 1], np.int32)}, r"train_labels holds 2, out of range"),
        ({"test_labels": np.array([0, -1], np.int32)}, r"test_labels holds -1.*unlabelled"),
        ({"test_labels": np.array([0], np.int32)}, r"test_labels has shape \(1,\) for 2 images"),
        ({"test_labels": np.array([0.0, 1.0])}, r"test_labels has dtype float64"),
        ({"train_images": np.full((4, 6, 6, 3), np.nan)}, r"float64 and holds NaN; give pixels"),
        ({"train_images": pictures(4)[..., 0]}, r"shape \(4, 6, 6\); give \[n, height"),
        ({"test_images": pictures(2, 5, 5)}, r"test_images are 5 x 5 x 3 but"),
        (
            {"test_images": pictures(0), "test_labels": np.zeros(0, np.int32)},
            r"test_images is empty",
        ),
        ({"class_names": ()}, r"class_names is empty"),
    ],
)
def test_bad_image_data(changes, message):
    with pytest.raises(ValueError, match=message):
        an_image_data(**changes)


def test_labels_of_other_integer_types_are_converted():
    data = an_image_data(test_labels=np.array([0, 1], np.int64))
    assert data.test_labels.dtype == np.int32
    assert dataclasses.replace(data, name="other").name == "other"


@pytest.mark.slow
def test_real_data_sets(real_data, monkeypatch):
    monkeypatch.setenv("BILEVEL_DATA", str(real_data))
    mnist, cifar = load("mnist"), load("cifar10")
    assert mnist.train_images.shape == (60000, 28, 28, 1) and mnist.class_names[3] == "3"
    assert cifar.test_images.shape == (10000, 32, 32, 3) and cifar.class_names[3] == "cat"
    assert np.bincount(cifar.train_labels).tolist() == [5000] * 10


def named_splits(folder, train, test, seed=0):
    """A training and a test split that name their classes as given, of one brightness each."""
    import datasets

    folder.mkdir()
    shade = {"a": 10, "b": 90, "c": 200}
    for split, names in (("train", train), ("test", test)):
        kept = [name for name in names if name in shade]
        rows = [(png(np.full((4, 4, 3), shade[name] + i, np.uint8)), names.index(name))
                for name in kept for i in range(3)]  # fmt: skip
        columns = {"image": [one for one, _ in rows], "label": [label for _, label in rows]}
        kinds = image_and(datasets.ClassLabel(names=list(names)))
        datasets.Dataset.from_dict(columns, features=kinds).to_parquet(folder / f"{split}.parquet")
    return str(folder)


@pytest.mark.parametrize("test", ["cab", "bc", "Zabc", "acb"])
def test_the_classes_of_the_test_split_are_matched_by_name(tmp_path, test, caplog):
    data = load(named_splits(tmp_path / "set", "abc", test))
    assert data.class_names == ("a", "b", "c")
    shades = data.test_images[:, 0, 0, 0]
    assert data.test_labels.tolist() == (np.digitize(shades, [50, 150])).tolist()
    assert ("no test images" in caplog.text) == ("a" not in test)


def test_a_test_image_of_no_class_of_the_training_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'label' of split 'test'.* holds 'c', none of the 2"):
        load(named_splits(tmp_path / "set", "ab", "cab"))


def test_one_class_alone_is_refused(tmp_path):
    with pytest.raises(ValueError, match="one class alone, 'a'"):
        load(named_splits(tmp_path / "set", "a", "a"))
