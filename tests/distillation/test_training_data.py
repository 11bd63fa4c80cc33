"""Where training images are kept makes no difference to what is computed."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_distillation import Distillation, RunConfig
from bilevel_distillation._engine import _training_data
from bilevel_distillation._engine._training_data import Transform, choose_storage
from bilevel_distillation.data import ImageData, Preprocessor


@pytest.fixture(scope="module")
def colour():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 4, 4, 3), np.uint8)
    labels = np.arange(60) % 3
    return ImageData("noise", images[:48], labels[:48], images[48:], labels[48:], ("a", "b", "c"))


@pytest.mark.parametrize("values", [None, 48, 12])
def test_the_transform_on_the_device_is_the_preprocessor(colour, values):
    preprocessor = Preprocessor.fit(colour.train_images, zca=False)
    if values is not None:
        rng = np.random.default_rng(1)
        whitening = rng.normal(size=(values, values)).astype(np.float32)
        preprocessor = Preprocessor(
            preprocessor.mean, preprocessor.std, preprocessor.image_shape, whitening
        )
    transform = eqx.filter_jit(Transform.make(preprocessor))
    found = transform(jnp.asarray(colour.test_images))
    np.testing.assert_allclose(found, preprocessor(colour.test_images), rtol=1e-5, atol=1e-4)


def test_floats_bytes_and_host_give_the_same_coreset(colour):
    found = {}
    for storage in ("floats", "bytes", "host"):
        config = RunConfig(
            dataset="noise", width=2, depth=1, batch_size=16, pool_size=2, iterations=3, flip=False,
            ridge_rate=0.1, storage=storage,
        )  # fmt: skip
        distillation = Distillation(config, colour)
        if storage == "bytes":
            assert distillation.training.images.dtype == np.uint8
        if storage == "host":
            assert distillation.resident is None
        before = distillation.state.coreset.images
        for _ in range(3):
            distillation.step()
        found[storage] = distillation.state.coreset
        assert jnp.max(jnp.abs(found[storage].images - before)) > 1e-2
    for storage in ("bytes", "host"):
        for one, other in zip(
            jax.tree.leaves(found["floats"]), jax.tree.leaves(found[storage]), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("memory", "devices", "expected"),
    [(16, 1, "floats"), (15, 1, "bytes"), (2, 1, "bytes"), (1, 1, "host"), (4, 4, "floats")],
)
def test_the_storage_follows_from_the_memory(monkeypatch, memory, devices, expected):
    images = np.zeros(1000, np.uint8)
    monkeypatch.setattr(_training_data, "_memory", lambda: memory * 1000)
    assert choose_storage("auto", images, devices) == expected
    assert choose_storage("host", images, devices) == "host"
