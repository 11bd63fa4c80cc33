"""Random changes of images: what each does, what it leaves, and its derivative."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_distillation import Coreset, RunConfig, augment, resolve
from bilevel_distillation._engine._recipe import make_recipe
from bilevel_distillation.data import augment_alike
from bilevel_distillation.data._augmentation import (
    OPERATIONS,
    colour,
    crop,
    cutout,
    flip,
    rotate,
    translate,
)
from bilevel_distillation.engine import Batch, Rates, coreset_gradient
from bilevel_distillation.networks import ConvNet, smooth_relu

N, SIZE = 200, 16


@pytest.fixture
def images(x64):
    return jax.random.normal(jax.random.key(1), (N, SIZE, SIZE, 3))


def blob(y, x, size=32):
    """One smooth bright spot at these pixels."""
    i, j = jnp.arange(size)[:, None], jnp.arange(size)[None, :]
    spot = jnp.exp(-((i - y) ** 2 + (j - x) ** 2) / 8)
    return jnp.broadcast_to(spot[None, :, :, None], (N, size, size, 1))


def middle(spots):
    """Where each spot is."""
    size = spots.shape[1]
    weights = spots[..., 0] / spots.sum((1, 2, 3))[:, None, None]
    i, j = jnp.arange(size)[:, None], jnp.arange(size)[None, :]
    return np.stack([(weights * i).sum((1, 2)), (weights * j).sum((1, 2))], 1)


def test_half_of_the_images_are_mirrored(images):
    found = flip(images, jax.random.key(0))
    mirrored = np.array(
        [np.array_equal(one, old[:, ::-1]) for one, old in zip(found, images, strict=True)]
    )
    kept = np.array([np.array_equal(one, old) for one, old in zip(found, images, strict=True)])
    assert (mirrored ^ kept).all() and 70 < mirrored.sum() < 130


def test_colours_keep_the_order_of_channels_differences(images):
    found = np.asarray(colour(images, jax.random.key(0)))
    means = found.mean((1, 2, 3)) - np.asarray(images).mean((1, 2, 3))
    assert np.abs(means).max() < 0.5 and np.std(means) == pytest.approx(1 / np.sqrt(12), rel=0.2)
    # What is common to the channels grows by the contrast alone, what differs by saturation too.
    gray = np.asarray(images).mean(3)
    contrast = found.mean(3).std((1, 2)) / gray.std((1, 2))
    assert 0.5 < contrast.min() < 0.6 and 1.4 < contrast.max() < 1.5
    differing = found.std(3).mean((1, 2)) / np.asarray(images).std(3).mean((1, 2))
    saturation = differing / contrast
    assert 0 < saturation.min() < 0.1 and 1.9 < saturation.max() < 2


def test_crops_are_whole_pixel_shifts_of_up_to_an_eighth(images):
    found = np.asarray(crop(images, jax.random.key(0)))
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    shifts = []
    for one, old in zip(found, padded, strict=True):
        hits = [
            (i, j)
            for i in range(5)
            for j in range(5)
            if np.array_equal(one, old[i : i + SIZE, j : j + SIZE])
        ]
        assert len(hits) == 1
        shifts += hits
    assert len(set(shifts)) == 25


def test_rotation_keeps_the_middle_and_turns_and_scales_the_rest(x64):
    centre = 15.5
    assert np.abs(middle(rotate(blob(centre, centre), jax.random.key(0))) - centre).max() < 1e-6
    found = middle(rotate(blob(centre, centre + 8), jax.random.key(0))) - centre
    angles = np.rad2deg(np.arctan2(found[:, 0], found[:, 1]))
    factors = np.linalg.norm(found, axis=1) / 8
    assert 14 < np.abs(angles).max() < 15.1 and abs(angles.mean()) < 2
    assert 1 / 1.21 < factors.min() < 0.86 and 1.17 < factors.max() < 1.21


def test_translation_moves_by_up_to_an_eighth(x64):
    found = middle(translate(blob(15.5, 15.5), jax.random.key(0))) - 15.5
    assert 3.8 < np.abs(found).max() <= 4.001
    assert np.abs(found - np.round(found)).max() > 0.4  # parts of pixels


def test_cutout_sets_a_square_of_half_the_side_to_zero(images):
    found = np.asarray(cutout(images, jax.random.key(0)))
    holes = (found == 0).all(3)
    assert ((found == images) | holes[..., None]).all()
    areas = holes.sum((1, 2)) / SIZE**2
    assert areas.max() == 0.25 and 1 / 16 - 0.02 < areas.min()


def test_the_default_is_all_for_colour_and_the_last_four_for_gray(images):
    key = jax.random.key(2)
    assert jnp.array_equal(augment(images, key), augment(images, key, tuple(OPERATIONS)))
    gray = images[..., :1]
    shapes = ("crop", "rotate", "translate", "cutout")
    assert jnp.array_equal(augment(gray, key), augment(gray, key, shapes))
    assert not jnp.array_equal(augment(gray, key), augment(gray, jax.random.key(3)))
    assert jnp.array_equal(augment(images, key, ()), images)


def test_derivatives_equal_differences(images):
    few, key = images[:3], jax.random.key(4)
    direction = jax.random.normal(jax.random.key(5), few.shape)

    def loss(x):
        return jnp.sum(augment(x, key) ** 3)

    step = 1e-6
    difference = (loss(few + step * direction) - loss(few - step * direction)) / (2 * step)
    assert float(jnp.vdot(jax.grad(loss)(few), direction)) == pytest.approx(float(difference))


def test_what_cannot_be_is_said(images):
    with pytest.raises(ValueError, match="operations holds 'blur', which is not known: choose fr"):
        augment(images, jax.random.key(0), ["blur"])
    with pytest.raises(ValueError, match="'colour', and images have 1 channels, not 3: leave it"):
        augment(images[..., :1], jax.random.key(0), ["colour"])


@pytest.mark.parametrize("method", ["rcig", "frepo", "rig"])
def test_the_meta_gradient_goes_back_through_the_augmentation(x64, method):
    shape, classes = (8, 8, 3), 2
    keys = jax.random.split(jax.random.key(0), 4)
    coreset = Coreset(
        jax.random.normal(keys[0], (4, *shape)),
        jnp.eye(classes)[jnp.arange(4) % 2] - 0.5,
        jnp.asarray(0.1),
        flip=True,
    )
    network = ConvNet(shape, classes, width=2, depth=1, activation=smooth_relu, key=keys[1])
    batch = jax.random.normal(keys[2], (6, *shape)), jnp.eye(classes)[jnp.arange(6) % 2]
    asked = RunConfig(method=method, width=2, depth=1, zca=False, adam_steps=2, augment=True)
    rates, key = Rates(jnp.asarray(1e-3), jnp.asarray(1.0)), keys[3]

    def gradient(coreset, **changes):
        config = resolve(replace(asked, **changes), shape, classes)
        recipe = make_recipe(config, shape, classes, 6)
        return coreset_gradient(recipe, coreset, Batch(*batch, network, rates, key))

    def change(images):
        return augment(images, jax.random.fold_in(key, 1))

    found = gradient(coreset)
    changed, pull = jax.vjp(change, coreset.images)
    plain = gradient(replace(coreset, images=changed), augment=False)
    assert float(found.value) == pytest.approx(float(plain.value))
    np.testing.assert_allclose(found.grad.labels, plain.grad.labels, rtol=1e-6, atol=1e-9)
    expected = pull(plain.grad.images)[0]
    np.testing.assert_allclose(found.grad.images, expected, rtol=1e-5, atol=1e-9)
    assert not np.allclose(expected, plain.grad.images, rtol=1e-2)


def test_alike_changes_all_images_by_the_same_numbers():
    one = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
    images = jnp.concatenate([one, one, 2 * one])
    seen = set()
    for i in range(20):
        key = jax.random.key(i)
        found = augment_alike(images, key, ["flip", "crop", "rotate"])
        np.testing.assert_array_equal(found[0], found[1])
        np.testing.assert_allclose(found[2], 2 * found[0], atol=1e-6)  # these three are linear
        # Another batch with the same key is changed in the same way, whatever its size.
        np.testing.assert_allclose(augment_alike(one, key, ["flip", "crop", "rotate"])[0], found[0])
        mirrored = bool(jnp.array_equal(found[0], one[0, :, ::-1]))
        moved = bool(jnp.isin(found[0], jnp.append(one, 0.0)).all())
        seen.add("flip" if mirrored else "same or crop" if moved else "rotate")
    assert seen == {"flip", "same or crop", "rotate"}


def test_alike_refuses_what_augment_refuses():
    gray = jnp.zeros((2, 8, 8, 1))
    with pytest.raises(ValueError, match="operations holds 'shear', which is not known"):
        augment_alike(gray, jax.random.key(0), ["shear"])
    with pytest.raises(ValueError, match="operations holds 'colour', and images have 1 channels"):
        augment_alike(gray, jax.random.key(0), ["colour"])
