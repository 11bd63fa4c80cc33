"""Classes are matched by name, and what is no distilled set is not judged as one."""

from dataclasses import replace

import numpy as np
import pytest

from bilevel_distillation import DistilledSet
from bilevel_distillation._artifacts import check_preprocessed
from bilevel_distillation._judging._judge import match_classes
from bilevel_distillation.data import ImageData, Preprocessor

SHAPE = (4, 4, 3)


def distilled(*names):
    return DistilledSet(
        np.zeros((4, *SHAPE), np.float32),
        np.arange(12, dtype=np.float32).reshape(4, 3),
        np.array([0, 1, 2, 1]),
        names,
        Preprocessor(np.zeros(3), np.ones(3), SHAPE),
    )


def data(*names):
    images, labels = np.zeros((3, *SHAPE), np.uint8), np.arange(3)
    return ImageData("colours", images, labels, images, labels, names)


def test_labels_follow_the_names():
    before = distilled("red", "green", "blue")
    found = match_classes(before, data("blue", "red", "green"))
    assert found.class_names == ("blue", "red", "green")
    np.testing.assert_array_equal(found.labels, before.labels[:, [2, 0, 1]])
    named = [found.class_names[i] for i in found.classes]
    assert named == [before.class_names[i] for i in before.classes]
    assert match_classes(before, data("red", "green", "blue")) is before


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(("0", "1", "2"), ("red", "green", "blue")), (("red", "green", "blue"), ("0", "1", "2"))],
)
def test_numbers_in_place_of_names_are_said(ours, theirs):
    said = []
    found = match_classes(distilled(*ours), data(*theirs), said.append)
    assert found.class_names == theirs
    np.testing.assert_array_equal(found.labels, distilled(*ours).labels)
    (sentence,) = said
    assert "matched by number" in sentence and ("colours" in sentence) == (theirs[0] == "0")


@pytest.mark.parametrize(
    "ours", [("red", "green", "Blue"), ("red", "red", "blue"), ("2", "1", "3")]
)
def test_other_names_are_refused(ours):
    with pytest.raises(ValueError, match="do not match at '(blue|Blue|red|2)'"):
        match_classes(distilled(*ours), data("red", "green", "blue"))


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.array([0.0, 255.0, 17.0]), "pixels from 0 to 255"),
        (np.array([0.0, 0.5, 1.0]), "pixels from 0 to 1"),
        (np.array([0.0, 255.0, -1.0]), None),
        (np.array([0.0, 2.5, 1.0]), None),
    ],
)
def test_pixels_are_no_preprocessed_images(images, said, tmp_path):
    if said is None:
        check_preprocessed(images, tmp_path)
        return
    with pytest.raises(ValueError, match=f"{said}, and not preprocessed"):
        check_preprocessed(images, tmp_path)


def test_a_run_stores_its_whitening_once(tmp_path):
    from bilevel_distillation import export, load_hf
    from bilevel_distillation._artifacts._export import export_hf
    from bilevel_distillation._artifacts._folder import RunFolder

    whitening = np.random.default_rng(0).normal(size=(48, 48)).astype(np.float32)
    before = distilled("red", "green", "blue")
    before = replace(before, preprocessor=replace(before.preprocessor, whitening=whitening))
    folder = RunFolder(tmp_path)
    folder.keep_preprocessor(before.preprocessor)
    folder.keep_distilled(before)
    export_hf(before, folder.dataset, preprocess=folder.preprocess)
    assert folder.distilled.stat().st_size < whitening.nbytes
    assert (folder.dataset / "preprocess.npz").samefile(folder.preprocess)
    for found in (folder.read_distilled(), load_hf(folder.dataset)):
        np.testing.assert_array_equal(found.preprocessor.whitening, whitening)
    alone = export(folder.read_distilled(), tmp_path / "npz", "npz")
    folder.preprocess.rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError, match=r"preprocess.npz' is missing, which distilled.npz"):
        folder.read_distilled()
    np.testing.assert_array_equal(DistilledSet.load_npz(alone).preprocessor.whitening, whitening)
    folder.keep_preprocessor(replace(before.preprocessor, whitening=whitening + 1))
    with pytest.raises(ValueError, match=r"is not the file that distilled.npz was made with"):
        folder.read_distilled()
