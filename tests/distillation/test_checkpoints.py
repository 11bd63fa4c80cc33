"""Checkpoints: to the same bits, the last two, a damaged one passed over and none ever deleted."""

import logging
import os
import random
import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_distillation._artifacts._checkpoints import Checkpoints


class State(eqx.Module):
    weight: jax.Array
    count: jax.Array
    rest: tuple
    name: str = eqx.field(static=True)


def state(seed, name="one"):
    weight = jax.random.normal(jax.random.key(seed), (50, 40))
    odd = jnp.array([jnp.nan, -0.0, jnp.inf, 1e-45], jnp.float32)
    return State(weight, jnp.asarray(seed, jnp.int32), (odd, None, [jnp.zeros((1, 1))], max), name)


def assert_same_bits(one, other):
    a, b = (jax.tree.leaves(eqx.filter(tree, eqx.is_array)) for tree in (one, other))
    assert len(a) == len(b) == 4
    for left, right in zip(a, b, strict=True):
        assert left.dtype == right.dtype and left.shape == right.shape
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()


@pytest.fixture
def store(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    yield checkpoints, tmp_path / "checkpoints"
    checkpoints.close()


def damage(folder, iteration):
    """Flip a bit in the middle of the largest file of a checkpoint's arrays."""
    files = [p for p in (folder / str(iteration) / "state").rglob("d/*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0x10
    largest.write_bytes(bytes(content))


def test_none_where_there_is_none(store):
    assert store[0].restore(state(0)) is None


def test_the_newest_comes_back_to_the_same_bits_and_two_are_kept(store):
    checkpoints, folder = store
    for iteration in (3, 7, 12):
        checkpoints.save(iteration, state(iteration), {"seconds": 0.1 * iteration, "list": [[1]]})
    assert {p.name for p in folder.iterdir()} == {"7", "12"}
    # Another process opens the folder anew, and knows only the shape of what it wants.
    again = Checkpoints(folder)
    iteration, found, notes = again.restore(state(99, name="its own"))
    again.close()
    assert iteration == 12 and notes == {"seconds": 0.1 * 12, "list": [[1]]}
    assert_same_bits(found, state(12))
    assert found.name == "its own" and found.rest[3] is max


def test_a_damaged_newest_one_is_passed_over_and_can_be_written_again(store, caplog):
    checkpoints, folder = store
    for iteration in (1, 2):
        checkpoints.save(iteration, state(iteration), {})
    damage(folder, 2)
    iteration, found, _ = checkpoints.restore(state(0))
    assert iteration == 1
    assert_same_bits(found, state(1))
    assert "the checkpoint of iteration 2 is damaged" in caplog.text
    assert "the one before it is used" in caplog.text
    assert checkpoints.lost and os.listdir(folder.parent / "damaged") == ["2"]
    checkpoints.save(2, state(2), {})
    assert checkpoints.restore(state(0))[0] == 2


def test_where_all_are_damaged_there_is_none(store, caplog):
    checkpoints, folder = store
    checkpoints.save(5, state(5), {})
    damage(folder, 5)
    assert checkpoints.restore(state(0)) is None
    assert "iteration 5 is damaged" in caplog.text and "there is none before it" in caplog.text
    assert os.listdir(folder.parent / "damaged") == ["5"]


def refused(checkpoints, folder, template, sentence):
    """No checkpoint is given, moved or deleted, and the sentence says why."""
    before = sorted(os.listdir(folder))
    with pytest.raises((ValueError, OSError), match=sentence):
        checkpoints.restore(template)
    assert sorted(os.listdir(folder)) == before and not (folder.parent / "damaged").exists()
    assert not checkpoints.lost


@pytest.mark.parametrize("number", [13, 5, 24])  # permission, the disk, too many open files
def test_one_that_cannot_be_read_is_no_damaged_one(store, monkeypatch, number):
    checkpoints, folder = store
    for iteration in (1, 2):
        checkpoints.save(iteration, state(iteration), {})
    opened = os.open

    def fail(path, *arguments, **how):
        if "/2/state" in str(path):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *arguments, **how)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        refused(checkpoints, folder, state(0), rf"cannot be read \({os.strerror(number)}\)")
    assert checkpoints.restore(state(0))[0] == 2


def test_too_little_memory_is_no_damage(store, monkeypatch):
    checkpoints, folder = store
    checkpoints.save(1, state(1), {})

    def fail(*arguments, **how):
        raise MemoryError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._manager, "restore", fail)
        refused(checkpoints, folder, state(0), r"cannot be read .*out of memory\): it is whole")
    assert checkpoints.restore(state(0))[0] == 1


def test_another_state_is_no_damage(store):
    checkpoints, folder = store
    checkpoints.save(1, state(1), {})
    other = eqx.tree_at(lambda one: one.weight, state(0), jnp.zeros((50, 41)))
    refused(checkpoints, folder, other, r"float32\[50, 40\] where float32\[50, 41\] is needed")
    more = eqx.tree_at(lambda one: one.rest, state(0), (jnp.zeros(4), jnp.zeros(1), [], max))
    refused(checkpoints, folder, more, "holds another state .*: go on with that version")


def test_one_of_the_version_before_or_sealed_not_yet_is_read(store):
    checkpoints, folder = store
    checkpoints.save(1, state(1), {"seconds": 2.0})
    (folder / "1" / "checksums.json").unlink()
    iteration, found, notes = checkpoints.restore(state(0))
    assert iteration == 1 and notes == {"seconds": 2.0}
    assert_same_bits(found, state(1))


def test_no_bit_of_a_checkpoint_turns_unnoticed(store):
    checkpoints, folder = store
    checkpoints.save(1, state(1), {})
    files = [path for path in sorted((folder / "1").rglob("*")) if path.is_file()]
    rng, damaged = random.Random(0), 0
    for _ in range(40):
        path = rng.choice(files)
        content = path.read_bytes()
        turned = bytearray(content)
        turned[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(turned)
        found = checkpoints.restore(state(0))
        if found is None:
            damaged += 1
            moved = folder.parent / "damaged"
            (moved / os.listdir(moved)[0]).rename(folder / "1")
        else:
            assert_same_bits(found[1], state(1))
        path.write_bytes(content)
        checkpoints._manager.reload()
    assert damaged > 30


def test_names_that_are_no_iterations_are_left_alone(store):
    checkpoints, folder = store
    for name in ("²", "007x", "notes"):
        (folder / name).mkdir(parents=True)
    assert checkpoints.iterations() == [] and checkpoints.restore(state(0)) is None
    checkpoints.save(3, state(3), {})
    assert checkpoints.iterations() == [3] and len(os.listdir(folder)) == 4


def test_too_small_a_disk_is_one_sentence_before_anything_is_written(store, monkeypatch):
    checkpoints, folder = store
    checkpoints.save(1, state(1), {})
    before = sorted(os.listdir(folder))
    with monkeypatch.context() as patch:
        usage = type("Usage", (), {"free": 100_000})
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        sentence = r"checkpoints/2' cannot be written \(it takes 0.2 MB, and 0.1 MB are free\)"
        with pytest.raises(OSError, match=sentence):
            checkpoints.save(2, state(2), {})
    assert sorted(os.listdir(folder)) == before
    checkpoints.save(2, state(2), {})
    assert checkpoints.restore(state(0))[0] == 2


def test_what_orbax_says_of_a_full_disk_is_one_sentence(store, monkeypatch):
    checkpoints, _ = store

    def fail(*arguments, **how):
        raise ValueError("RESOURCE_EXHAUSTED: a page of words\n[os_error_code='28']")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._manager, "save", fail)
        sentence = r"checkpoints/1' cannot be written \(No space left on device\): see to that"
        with pytest.raises(OSError, match=sentence):
            checkpoints.save(1, state(1), {})
    for name in ("absl", "asyncio"):  # what threads left is said when it is collected
        assert logging.getLogger(name).level == logging.CRITICAL
        logging.getLogger(name).setLevel(logging.WARNING)
