"""What print and a notebook show, and a distilled set in the hands of other libraries."""

import sys
import types

import numpy as np
import pytest

from bilevel_distillation import (
    Accuracies,
    AttackedNetwork,
    AttackResults,
    AttackSettings,
    DistilledSet,
    Evaluation,
    OverSeeds,
    Ranking,
    SweepResults,
    SweptRun,
)
from bilevel_distillation.data import Preprocessor


@pytest.fixture
def distilled():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8)
    preprocessor = Preprocessor.fit(pixels, zca=False)
    return DistilledSet(
        preprocessor(pixels), np.eye(3)[[0, 0, 1, 1, 2, 2]], np.array([0, 0, 1, 1, 2, 2]),
        ("a<b", "cat", "dog"), preprocessor, flip=True, provenance={"dataset": "d", "ipc": 2},
    )  # fmt: skip


def test_a_distilled_set_says_what_it_is(distilled):
    said = "DistilledSet(6 images of 4 x 5 x 3, 3 classes, dataset='d', ipc=2)"
    assert repr(distilled) == str(distilled) == said


def test_a_notebook_shows_the_images(distilled):
    shown = distilled._repr_html_()
    assert shown.count("data:image/png;base64,") == 6
    assert "a&lt;b" in shown and "a<b" not in shown
    many = DistilledSet(
        np.repeat(distilled.images, 20, 0), np.repeat(distilled.labels, 20, 0),
        np.repeat(distilled.classes, 20), distilled.class_names, distilled.preprocessor,
    )  # fmt: skip
    shown = many._repr_html_()
    assert shown.count("<img") == 100 and "and 20 more" in shown


def test_the_pair_has_mirror_images(distilled):
    for images, labels in (distilled.to_numpy(), distilled.to_keras()):
        assert images.shape == (12, 4, 5, 3) and images.dtype == labels.dtype == np.float32
        np.testing.assert_array_equal(images[6:], distilled.images[:, :, ::-1])
        np.testing.assert_array_equal(labels[6:], distilled.labels)


def test_keras_may_want_channels_first(distilled, monkeypatch):
    keras = types.ModuleType("keras")
    keras.config = types.SimpleNamespace(image_data_format=lambda: "channels_first")
    monkeypatch.setitem(sys.modules, "keras", keras)
    assert distilled.to_keras()[0].shape == (12, 3, 4, 5)


def test_without_pytorch_the_sentence_names_the_remedy(distilled, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install torch, or take the arrays of to_numpy"):
        distilled.to_torch()


def test_pytorch_is_handed_a_data_set(distilled, monkeypatch):
    torch, utils, data = (types.ModuleType(n) for n in ("torch", "torch.utils", "torch.utils.data"))
    torch.from_numpy, data.TensorDataset = (lambda array: array), (lambda *tensors: tensors)
    for module in (torch, utils, data):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    images, labels = distilled.to_torch()
    assert images.shape == (12, 3, 4, 5) and images.flags.c_contiguous and labels.shape == (12, 3)


ACCURACIES = Accuracies((0.9, 0.8), (0.5, 0.5))


def attacked():
    settings = AttackSettings(10, 5, "convnet", "none", 1, 1, 0)
    return AttackResults(settings, (AttackedNetwork(0.9, {"loss": 0.5}),))


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (ACCURACIES, ("distilled set", "85.0 ± 5.0 %", "50.0 ± 0.0 %", "2")),
        (attacked(), ("loss", "0.50", "90.0", "distilled set")),
        (
            SweepResults({"a": SweptRun({"ipc": 1, "seed": 0}, ACCURACIES)}),
            ("ipc", "85.0 %", "50.0 %", "runs"),
        ),
        (
            Evaluation("convnet", "none", ACCURACIES, Ranking(*[0.5] * 8)),
            ("convnet, norm none", "85.0", "label-robust score"),
        ),
        (OverSeeds(0.5, 0.1), ("50.0 ± 10.0 %",)),
    ],
    ids=lambda one: type(one).__name__,
)
def test_results_print_as_tables(result, words):
    text = str(result)
    assert all(word in text for word in words), text
    if hasattr(result, "_repr_html_"):
        shown = result._repr_html_()
        assert shown.startswith("<table>") and all(word in shown for word in words)
