"""Random changes of images: functions of a key, differentiable in the images.

Images are preprocessed: zero is the mean pixel, and what is moved in from outside is zero. Lengths
are fractions of the image's sides. Each image is changed by random numbers of its own.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

Images = Float[Array, "n height width channels"]

BRIGHTNESS, SATURATION, CONTRAST = 0.5, 1.0, 0.5
PADDING = 0.125
SHIFT = 0.125
ANGLE, SCALE = 15.0, 1.2
HOLE = 0.5


def flip(images: Images, key: PRNGKeyArray) -> Images:
    """Half of the images mirrored."""
    mirrored = _each(jax.random.bernoulli(key, 0.5, images.shape[:1]))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def colour(images: Images, key: PRNGKeyArray) -> Images:
    """Brightness moved by up to 0.5 (of the standardised pixels), then saturation times 0 to 2,
    contrast times 0.5 to 1.5.
    """
    keys = jax.random.split(key, 3)
    images = images + _each(_uniform(keys[0], images, -BRIGHTNESS, BRIGHTNESS))
    saturation = _each(_uniform(keys[1], images, 1 - SATURATION, 1 + SATURATION))
    images = _away(images, jnp.mean(images, 3, keepdims=True), saturation)
    contrast = _each(_uniform(keys[2], images, 1 - CONTRAST, 1 + CONTRAST))
    return _away(images, jnp.mean(images, (1, 2, 3), keepdims=True), contrast)


def crop(images: Images, key: PRNGKeyArray) -> Images:
    """A window of the image's size out of the image padded with zeros, 1/8 on each side: the image
    moved by whole pixels.
    """
    _, height, width, channels = images.shape
    y, x = int(PADDING * height + 0.5), int(PADDING * width + 0.5)
    padded = jnp.pad(images, ((0, 0), (y, y), (x, x), (0, 0)))
    most = jnp.array([2 * y + 1, 2 * x + 1])
    corners = jax.random.randint(key, (images.shape[0], 2), 0, most)

    def window(image, corner):
        start = (corner[0], corner[1], jnp.zeros_like(corner[0]))
        return jax.lax.dynamic_slice(image, start, (height, width, channels))

    return jax.vmap(window)(padded, corners)


def rotate(images: Images, key: PRNGKeyArray) -> Images:
    """Turned by up to 15 degrees, and made larger or smaller by a factor of up to 1.2, about the
    middle.
    """
    one, other = jax.random.split(key)
    angle = jnp.deg2rad(_uniform(one, images, -ANGLE, ANGLE))
    factor = SCALE ** _uniform(other, images, -1.0, 1.0)
    cosine, sine = jnp.cos(angle) / factor, jnp.sin(angle) / factor
    y, x = _from_middle(images)
    return _sample(
        images,
        _each(cosine)[..., 0] * y + _each(sine)[..., 0] * x,
        _each(cosine)[..., 0] * x - _each(sine)[..., 0] * y,
    )


def translate(images: Images, key: PRNGKeyArray) -> Images:
    """Moved by up to 1/8 of its sides, by parts of pixels too."""
    one, other = jax.random.split(key)
    _, height, width, _ = images.shape
    down, right = (_uniform(k, images, -SHIFT, SHIFT) for k in (one, other))
    y, x = _from_middle(images)
    return _sample(images, y + height * _each(down)[..., 0], x + width * _each(right)[..., 0])


def cutout(images: Images, key: PRNGKeyArray) -> Images:
    """A square of half the image's sides set to zero; its middle is anywhere in the image."""
    y, x = _from_middle(images)
    _, height, width, _ = images.shape
    one, other = jax.random.split(key)
    down, right = (_each(_uniform(k, images, -0.5, 0.5))[..., 0] for k in (one, other))
    inside = jnp.abs(y - height * down) < HOLE * height / 2
    inside &= jnp.abs(x - width * right) < HOLE * width / 2
    return jnp.where(inside[..., None], 0, images)


OPERATIONS: dict[str, Callable[[Images, PRNGKeyArray], Images]] = {
    "flip": flip,
    "colour": colour,
    "crop": crop,
    "rotate": rotate,
    "translate": translate,
    "cutout": cutout,
}
OF_COLOUR = ("flip", "colour")
"""Operations for colour images alone: a mirrored digit is none."""


def augment(images: Images, key: PRNGKeyArray, operations: Sequence[str] | None = None) -> Images:
    """Images changed at random by one operation after the other.

    Args:
        images: preprocessed.
        key: of all that is random.
        operations: some of flip, colour, crop, rotate (and scale), translate, cutout, in their
            order; None: all of them for colour images, and the last four for others (appendix C of
            the RCIG paper; its strengths are those that are usual since DSA, Zhao and Bilen, 2021).

    Raises:
        ValueError: an unknown operation; colour for images without three channels.
    """
    for i, name in enumerate(_names(images, operations)):
        images = OPERATIONS[name](images, jax.random.fold_in(key, i))
    return images


def augment_alike(
    images: Images, key: PRNGKeyArray, operations: Sequence[str] | None = None
) -> Images:
    """Images all changed by the same random numbers, by one operation that is drawn: the siamese
    augmentation of DSA (Zhao and Bilen, 2021, section 3.2). With the same key real and distilled
    images are changed alike.

    Arguments and errors as of `augment`.
    """
    names = _names(images, operations)
    one, other = jax.random.split(key)

    def changed(name: str) -> Callable[[Images], Images]:
        # Each image is one of its own, and so all draw the same numbers.
        return jax.vmap(lambda image: OPERATIONS[name](image[None], other)[0])

    if len(names) == 1:
        return changed(names[0])(images)
    drawn = jax.random.randint(one, (), 0, len(names))
    return jax.lax.switch(drawn, [changed(name) for name in names], images)


def _names(images: Images, operations: Sequence[str] | None) -> Sequence[str]:
    coloured = images.shape[3] == 3
    if operations is None:
        return [name for name in OPERATIONS if coloured or name not in OF_COLOUR]
    for name in operations:
        if name not in OPERATIONS:
            raise ValueError(
                f"operations holds {name!r}, which is not known: choose from "
                f"{', '.join(OPERATIONS)}."
            )
    if "colour" in operations and not coloured:
        raise ValueError(
            f"operations holds 'colour', and images have {images.shape[3]} channels, not 3: leave "
            "it out."
        )
    return operations


def _each(values: Shaped[Array, " n"]) -> Shaped[Array, "n 1 1 1"]:
    return values[:, None, None, None]


def _uniform(key, images: Images, low: float, high: float) -> Float[Array, " n"]:
    return jax.random.uniform(key, images.shape[:1], images.dtype, low, high)


def _away(images, middle, factor):
    return middle + factor * (images - middle)


def _from_middle(images: Images):
    """The coordinates of each pixel, in pixels from the middle of the image."""
    _, height, width, _ = images.shape
    y = jnp.arange(height, dtype=images.dtype) - (height - 1) / 2
    x = jnp.arange(width, dtype=images.dtype) - (width - 1) / 2
    return y[None, :, None], x[None, None, :]


def _sample(images: Images, y, x) -> Images:
    """The images at these coordinates, linearly between pixels, zero outside."""
    n, height, width, _ = images.shape
    y, x = jnp.broadcast_arrays(y + (height - 1) / 2, x + (width - 1) / 2)
    above, left = jnp.floor(y), jnp.floor(x)
    rows = jnp.arange(n)[:, None, None]
    total = jnp.zeros_like(images)
    for down in (0, 1):
        for right in (0, 1):
            i, j = above + down, left + right
            share = (1 - jnp.abs(y - i)) * (1 - jnp.abs(x - j))
            within = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            i = jnp.clip(i, 0, height - 1).astype(int)
            j = jnp.clip(j, 0, width - 1).astype(int)
            total = total + jnp.where(within, share, 0)[..., None] * images[rows, i, j]
    return total
