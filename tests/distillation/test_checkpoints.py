"""Checkpoints: to the same bits, the last two, a damaged one passed over."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_distillation._checkpoints import Checkpoints


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
    checkpoints.save(2, state(2), {})
    assert checkpoints.restore(state(0))[0] == 2


def test_where_all_are_damaged_there_is_none(store, caplog):
    checkpoints, folder = store
    checkpoints.save(5, state(5), {})
    damage(folder, 5)
    assert checkpoints.restore(state(0)) is None
    assert "iteration 5 is damaged" in caplog.text and "there is none before it" in caplog.text
