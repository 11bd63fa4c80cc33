"""Pictures: that they show what they are given."""

import numpy as np
import pytest

from bilevel_distillation import DistilledSet, draw_images, draw_learning_curve
from bilevel_distillation.data import Preprocessor, load


def pixels_of(path):
    import PIL.Image

    with PIL.Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def enlarged(image, scale):
    return np.repeat(np.repeat(np.broadcast_to(image, (*image.shape[:2], 3)), scale, 0), scale, 1)


def holds(picture, part):
    """Whether `part` occurs in the picture, pixel for pixel."""
    windows = np.lib.stride_tricks.sliding_window_view(picture[..., 0], part.shape[:2])
    corners = (windows[:, :, 0, 0] == part[0, 0, 0]) & (windows[:, :, -1, -1] == part[-1, -1, 0])
    places = np.argwhere(corners)
    height, width = part.shape[:2]
    return any((picture[y : y + height, x : x + width] == part).all() for y, x in places)


def noise(n):
    return np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), np.uint8)


def records(n):
    out = [
        {"iteration": i, "seconds": i / 2, "loss": 2.0 / (i + 1), "accuracy": 1 - 0.9 / (i + 1)}
        for i in range(n)
    ]
    out[-1] |= {"test_accuracy": 0.8, "test_accuracy_std": 0.02}
    return out


def test_every_image_is_there_pixel_for_pixel(tmp_path):
    images = noise(7)
    path = draw_images((images, [f"class {i}" for i in range(7)]), tmp_path / "grid.png")
    picture = pixels_of(path)
    assert all(holds(picture, enlarged(image, 14)) for image in images)
    assert not holds(picture, enlarged(255 - images[0], 14))


def test_captions_change_the_picture(tmp_path):
    a = pixels_of(draw_images((noise(2), ["a", "b"]), tmp_path / "a.png"))
    b = pixels_of(draw_images((noise(2), ["a", "w"]), tmp_path / "b.png"))
    assert a.shape == b.shape and (a != b).any()


@pytest.mark.parametrize(
    "names", [("fee_$1_up_$2", "over $9_{"), ("$\\frac$", "$$"), ("two\nlines", "\udcff\x00"),
              ("\N{FOX FACE} \u4e2d\u6587", "\u0627\u0644\u0639"), ("", " ")],
)  # fmt: skip
def test_names_are_drawn_as_they_are(tmp_path, names):
    import matplotlib

    with matplotlib.rc_context({"text.usetex": True, "text.parse_math": True}):
        draw_images((noise(2), names), tmp_path / "cells.png")
        preprocessor = Preprocessor.fit(noise(9), zca=False)
        distilled = DistilledSet(
            preprocessor(noise(4)), np.eye(2, dtype=np.float32)[[0, 0, 1, 1]],
            np.repeat([0, 1], 2), names, preprocessor,
        )  # fmt: skip
        draw_images(distilled, tmp_path / "rows.png")
        draw_learning_curve(records(3), tmp_path / "curve.png")
    image = distilled.display_images[0]
    assert holds(pixels_of(tmp_path / "rows.png"), enlarged(image, 14))


def test_several_images_a_class_make_a_row_for_each_class(tmp_path):
    data = load("digits")
    rows = np.concatenate([np.flatnonzero(data.train_labels == c)[:3] for c in (4, 7)])
    preprocessor = Preprocessor.fit(data.train_images, zca=False)
    distilled = DistilledSet(
        images=preprocessor(data.train_images[rows]),
        labels=np.eye(10, dtype=np.float32)[data.train_labels[rows]],
        classes=data.train_labels[rows],
        class_names=data.class_names,
        preprocessor=preprocessor,
    )
    picture = pixels_of(draw_images(distilled, tmp_path / "grid.png"))
    image = data.train_images[rows[0]]
    assert holds(picture, enlarged(image, 14))
    height, width = picture.shape[:2]
    assert 2 * 8 * 14 < height < 3 * 8 * 14 and 3 * 8 * 14 < width < 4 * 8 * 14


def test_a_picture_of_many_images_stays_small(tmp_path):
    picture = pixels_of(draw_images((noise(900), ["x"] * 900), tmp_path / "grid.png"))
    assert max(picture.shape) < 2500


def test_learning_curve_shows_test_accuracy(tmp_path):
    with_test, without = records(50), records(50)
    del without[-1]["test_accuracy"], without[-1]["test_accuracy_std"]
    a = pixels_of(draw_learning_curve(with_test, tmp_path / "a.png"))
    b = pixels_of(draw_learning_curve(without, tmp_path / "b.png"))
    assert a.shape == b.shape == (640, 900, 3) and (a != b).any()


def test_learning_curve_of_one_record_and_of_missing_values(tmp_path):
    draw_learning_curve(records(1), tmp_path / "one.png")
    draw_learning_curve(
        [{"iteration": 1, "loss": float("nan"), "accuracy": None}], tmp_path / "none.png"
    )
    assert pixels_of(tmp_path / "one.png").shape == pixels_of(tmp_path / "none.png").shape


def test_equal_pictures_are_equal_files_and_no_state_is_left(tmp_path):
    for name in ("a.png", "b.png"):
        draw_images((noise(2), ["a", "b"]), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ((noise(2) / 255, ["a", "b"]), "images are float64; give uint8"),
        ((noise(2)[..., 0], ["a", "b"]), r"images have shape \(2, 8, 8\)"),
        ((noise(2), ["a"]), "1 titles for 2 images"),
    ],
)
def test_bad_pictures(pictures, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        draw_images(pictures, tmp_path / "grid.png")


def test_no_records(tmp_path):
    with pytest.raises(ValueError, match="records is empty"):
        draw_learning_curve([], tmp_path / "curve.png")
