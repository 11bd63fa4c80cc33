"""What a method prepares once: kept, shared, and never replaced because it cannot be read."""

import os

import numpy as np
import pytest

from bilevel_distillation._artifacts import find_prepared, keep_prepared

KNOWN = {"data": "one", "trajectories": 2}


@pytest.fixture
def folders(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    keep_prepared(first, [np.arange(6.0).reshape(2, 3)], KNOWN, 1.5)
    return first, second


def unreadable(monkeypatch, path):
    opened = os.open

    def fail(name, *arguments, **how):
        if str(name) == str(path):
            raise PermissionError(13, os.strerror(13), str(name))
        return opened(name, *arguments, **how)

    monkeypatch.setattr(os, "open", fail)


def test_a_folder_beside_it_is_shared(folders):
    first, second = folders
    for folder in (first, second):
        found = find_prepared(folder, KNOWN)
        assert found is not None and found[1] == 1.5
        np.testing.assert_array_equal(found[0][0], np.arange(6.0).reshape(2, 3))
    assert (second / "prepared.npz").samefile(first / "prepared.npz")
    assert find_prepared(second, KNOWN | {"trajectories": 3}) is None


def test_its_own_that_cannot_be_read_stops_with_a_sentence(folders, monkeypatch):
    first, _ = folders
    before = (first / "prepared.npz").read_bytes()
    with monkeypatch.context() as patch:
        unreadable(patch, first / "prepared.npz")
        with pytest.raises(OSError, match=r"prepared.npz' cannot be read \(Permission denied\)"):
            find_prepared(first, KNOWN)
    assert (first / "prepared.npz").read_bytes() == before and not (first / "damaged").exists()


def test_that_of_another_run_which_cannot_be_read_is_passed_over(folders, monkeypatch):
    first, second = folders
    unreadable(monkeypatch, first / "prepared.npz")
    assert find_prepared(second, KNOWN) is None
