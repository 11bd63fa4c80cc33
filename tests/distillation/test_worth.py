"""What a set is worth: how it is stored and read back, how many images fit, where lines cross."""

import importlib
import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from bilevel_distillation import DistilledSet
from bilevel_distillation.data import ImageData, Preprocessor

ROOT = Path(__file__).parents[2]


@pytest.fixture
def worth(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("worth")


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    images = np.repeat(rng.integers(0, 256, (40, 4, 4, 1), dtype=np.uint8), 2, 1).repeat(2, 2)
    labels = np.arange(40) % 2
    return ImageData("own", images, labels, images[:6], labels[:6], ("cat", "dog"))


@pytest.fixture
def chosen(data):
    preprocessor = Preprocessor.fit(data.train_images, zca=False)
    labels = np.eye(2, dtype=np.float32)[data.train_labels] - 0.5
    images = preprocessor(data.train_images)
    return DistilledSet(images, labels, data.train_labels, data.class_names, preprocessor)


def test_a_set_is_judged_as_it_is_read_back(worth, chosen, data):
    png, size = worth.stored_as(chosen, "png")
    np.testing.assert_allclose(png.images, chosen.images, atol=1e-5)
    assert size == sum(len(worth.encoded(image, "png")) for image in data.train_images)
    jpeg, _ = worth.stored_as(chosen, "jpeg")
    gaps = np.abs(jpeg.display_images.astype(int) - data.train_images)
    assert 0 < gaps.max() and gaps.mean() < 40
    half, size = worth.stored_as(chosen, "float16")
    assert size == 2 * chosen.images.size and half.images.dtype == np.float32
    assert 0 < np.abs(half.images - chosen.images).max() < 2e-3


def test_as_many_images_are_chosen_as_the_bytes_have_room_for(worth, data):
    each = worth.mean_bytes(data.train_images, "png") + 1
    assert worth.fitting(data, "png", 2 * 7.5 * each) == 7
    assert worth.fitting(data, "png", 1) == 1
    assert worth.fitting(data, "png", 1e9) == 20


def test_learned_labels_are_told_from_chosen_ones(worth, chosen):
    learned = importlib.import_module("systems").learned
    assert not learned(chosen)
    soft = chosen.labels.copy()
    soft[3] *= 0.9
    from dataclasses import replace

    assert learned(replace(chosen, labels=soft))


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return runpy.run_path(str(ROOT / "docs" / "_results" / "_worth.py"), run_name="_results._worth")


def test_where_a_line_reaches_a_height(page):
    points = [(100.0, 0.2), (1000.0, 0.5), (10_000.0, 0.4), (100_000.0, 0.9)]
    reach = page["reach"]
    assert reach(points, 0.2) == 100.0
    assert reach(points, 0.35) == pytest.approx(10**2.5)  # half way by the logarithm
    assert reach(points, 0.5) == 1000.0
    assert reach(points, 0.7) == pytest.approx(10 ** (3 + 2 * 0.5))  # best so far, to the next
    assert reach(points, 0.95) is None and reach([], 0.5) is None


def test_the_page_says_where_the_lines_cross(page):
    def of(size, accuracy):
        return {"convnet, hard": {"accuracies": [accuracy], "bytes": size, "training, s": 1.0}}

    sets = {
        "rcig, 1 a class": {"images": 10, "seconds": 9.0, "judged": of(100, 0.5)},
        "random png, 1 a class": {"images": 10, "seconds": 0.0, "judged": of(100, 0.3)},
        "random png, 4 a class": {"images": 40, "seconds": 0.0, "judged": of(400, 0.7)},
        "all data": {"images": 100, "seconds": 0.0, "judged": of(1000, 0.9)},
    }
    settings = {"seconds": 9.0, "networks": 2, "steps": 5, "width": 2, "distilled_width": 3,
                "resnet_width": 2, "seed": 0}  # fmt: skip
    found = {"settings": settings, "sets": sets}
    text = "\n".join(page["worth"](lambda name: found if name == "worth_mnist" else None))
    assert "distillation at width 3; judges of 5 steps, the ConvNet of width 2" in text
    assert "200 bytes" in text  # 0.5 is half way from 0.3 to 0.7, by the logarithm
    assert "CIFAR-10: not measured" in text
    (picture,) = page["pictures"](lambda name: found if name == "worth_mnist" else None).values()
    assert picture.startswith("<svg") and "random png" in picture and picture.count("<path") >= 2


@pytest.mark.parametrize("changed", [{"distilled_width": 8}, {"steps": 7}])
def test_figures_of_other_settings_are_not_joined(worth, monkeypatch, tmp_path, changed):
    held = worth.said(worth.Arguments()) | changed
    (tmp_path / "worth_mnist.json").write_text(json.dumps({"settings": held, "sets": {}}))
    monkeypatch.setattr(worth, "RESULTS", tmp_path)
    monkeypatch.setattr(worth, "load", None)  # said before the data is read
    with pytest.raises(SystemExit, match="worth_mnist.json holds figures of"):
        worth.main(worth.Arguments())
