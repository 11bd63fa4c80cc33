"""What a distillation is made from: the data of its config, and whether all of it fits together."""

from typing import Any

import jax
import numpy as np

from .._config import RunConfig
from .._methods import find_method
from .._problem import AbstractMethod
from ..data import ImageData, check_images_per_class, load, sample, set_apart
from ._makers import check_judges, check_network, distilling_maker
from ._needs import check_room
from ._pool import MakeNetwork


def load_data(config: RunConfig) -> ImageData:
    """The data set that a config names, or that part of it which the run sees."""
    return load_parts(config)[0]


def load_parts(config: RunConfig) -> tuple[ImageData, ImageData | None]:
    """What the run sees, and what is held out of its training images, if anything is."""
    data, apart = (
        load(
            config.dataset,
            image_column=config.image_column,
            label_column=config.label_column,
            train_split=config.train_split,
            test_split=config.test_split,
            resolution=config.resolution,
        ),
        None,
    )
    if config.held_out is not None:
        data, apart = set_apart(data, config.held_out)
    if config.samples is not None:
        data = sample(data, config.samples, config.seed)
    return data, apart


def for_selection(data: ImageData, apart: ImageData | None) -> ImageData:
    """The training images by which a judge selects: those held out, else a tenth of those that the
    run saw, at most 100 of each class.
    """
    if apart is not None:
        return apart
    fewest = int(np.bincount(data.train_labels, minlength=data.classes).min())
    each = max(1, min(100, fewest // 10))
    return set_apart(data, each * data.classes)[1]


def own_recipe(method: str | None, n: int) -> dict[str, Any]:
    """How networks that judge are trained by the authors of the method that made `n` images.

    Raises:
        ValueError: it is not known which method that was.
    """
    if method is None:
        raise ValueError(
            "recipe='own' needs the method that made the set, which this set does not name: leave "
            "own out."
        )
    return dict(find_method(method).own_recipe(n))


def check(
    config: RunConfig,
    data: ImageData,
    method: AbstractMethod,
    make_network: MakeNetwork | None = None,
) -> None:
    """Raise where a complete config, its method, or a network of the user's own, does not fit the
    data.
    """
    check_images_per_class(data, config.ipc)
    if config.iterations and not method.takes_steps:
        raise ValueError(
            f"iterations={config.iterations} is for methods that take steps, and "
            f"method={config.method!r} chooses real images: leave iterations out."
        )
    size = min(config.batch_size or 1, len(data.train_labels))
    method.rows(np.random.default_rng(0), data.train_labels, size)
    if config.float64 and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            "float64=True needs 64-bit numbers, which jax has switched off: call "
            "`jax.config.update('jax_enable_x64', True)` at the start of the program."
        )
    if config.zca and data.image_shape[2] == 1:
        raise ValueError(
            f"zca=True whitens colour images, and {data.name!r} is gray: use --no-zca."
        )
    shape, classes = data.image_shape, data.classes
    if make_network is not None:
        check_network(make_network, shape, classes)
        check_room(config, data, make_network, method)
        return
    check_room(config, data, distilling_maker(config, shape, classes), method)
    check_judges(config, shape, classes)
