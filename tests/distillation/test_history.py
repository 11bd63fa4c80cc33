"""Snapshots of a run: the same images each time, whole, and none from after a checkpoint."""

import numpy as np
import pytest

from bilevel_distillation import DistilledSet
from bilevel_distillation._artifacts._history import History, Snapshot, choose, moments
from bilevel_distillation.data import Preprocessor


def distilled(classes, ipc, size=4):
    rng = np.random.default_rng(0)
    preprocessor = Preprocessor.fit(rng.integers(0, 256, (50, size, size, 3), np.uint8), zca=False)
    return DistilledSet(
        images=rng.normal(size=(classes * ipc, size, size, 3)).astype(np.float32),
        labels=rng.normal(size=(classes * ipc, classes)).astype(np.float32),
        classes=np.repeat(np.arange(classes, dtype=np.int32), ipc),
        class_names=tuple(f"class {i} é" for i in range(classes)),
        preprocessor=preprocessor,
    )


@pytest.mark.parametrize(
    ("classes", "ipc", "shown", "each"),
    [(2, 1, 2, 1), (10, 3, 30, 3), (10, 50, 100, 10), (3, 50, 99, 33), (200, 2, 100, 1)],
)
def test_at_most_a_hundred_images_as_many_of_each_class(classes, ipc, shown, each):
    rows = choose(np.repeat(np.arange(classes), ipc), 100)
    assert len(rows) == shown == len(set(rows))
    of = rows // ipc
    assert set(np.bincount(of)[np.unique(of)]) == {each}
    assert of[0] == 0 and of[-1] == classes - 1


def test_moments_are_the_start_some_early_ones_the_curve_and_the_end():
    assert moments(800, 5) == {0, 8, 16, 40, 80, 160, 320, 480, 640, 800}
    assert moments(1, 5) == {0, 1}


def test_there_and_back(tmp_path):
    whole = distilled(10, 20)
    history = History(tmp_path / "history")
    assert history.read() == []
    for iteration in (1000, 0, 20):
        history.keep(Snapshot.of(whole, iteration))
    assert sorted(p.name for p in history.folder.iterdir()) == [
        "000000.npz", "000020.npz", "001000.npz"]  # fmt: skip
    read = history.read()
    assert [one.iteration for one in read] == [0, 20, 1000]
    last = read[-1]
    assert last.images.shape == (100, 4, 4, 3) and last.size == 200
    np.testing.assert_array_equal(last.images, whole.display_images[last.rows])
    np.testing.assert_array_equal(last.labels, whole.labels[last.rows])
    np.testing.assert_array_equal(last.classes, whole.classes[last.rows])
    assert last.class_names == whole.class_names and last.labels.dtype == np.float32


def test_what_came_after_a_checkpoint_is_dropped(tmp_path):
    history = History(tmp_path)
    for iteration in (0, 5, 6, 100):
        history.keep(Snapshot.of(distilled(2, 1), iteration))
    history.cut(5)
    assert [one.iteration for one in history.read()] == [0, 5]
    history.cut(-1)
    assert history.read() == []


def test_a_failed_write_leaves_the_earlier_one(tmp_path, monkeypatch):
    history = History(tmp_path)
    history.keep(Snapshot.of(distilled(2, 1), 3))

    def full(file, *arguments, **how):
        file.write(b"PK")
        raise OSError("no space left")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="no space"):
        history.keep(Snapshot.of(distilled(2, 1), 3))
    assert [p.name for p in tmp_path.iterdir()] == ["000003.npz"]
    assert len(history.read()) == 1


def test_a_damaged_snapshot_is_said(tmp_path):
    (tmp_path / "000003.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ValueError, match=r"000003.npz' is damaged .*: delete it"):
        History(tmp_path).read()
