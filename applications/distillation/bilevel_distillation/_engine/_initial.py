"""What distilled images begin as."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from .._config import RunConfig
from .._problem import choose_per_class
from .._running import portions
from ..data import ImageData, Preprocessor
from ..networks import AbstractNetwork
from ._pool import MakeNetwork

MOST_CLUSTERED = 1000
"""Images of a class among which k-means looks."""


def initial_images(
    config: RunConfig, data: ImageData, preprocessor: Preprocessor, make_network: MakeNetwork
) -> tuple[Float[np.ndarray, "n height width channels"], Int[np.ndarray, " n"]]:
    """Preprocessed images and their classes, class by class: by `config.init` random real images
    (also where it is open), standard normal noise, or the real images nearest to the centres that
    k-means finds in each class, in the features of a fresh network.
    """
    rng = np.random.default_rng([config.seed, 0])
    if config.init == "noise":
        shape = (data.classes * config.ipc, *data.image_shape)
        labels = np.repeat(np.arange(data.classes), config.ipc)
        return rng.normal(size=shape).astype(np.float32), labels
    if config.init != "kmeans":
        rows = choose_per_class(data.train_labels, data.classes, config.ipc, rng)
    else:
        network = make_network(jax.random.fold_in(jax.random.key(config.seed), 4))
        rows = _by_kmeans(config.ipc, data, preprocessor, eqx.nn.inference_mode(network), rng)
    return preprocessor(data.train_images[rows]), data.train_labels[rows]


def _by_kmeans(
    ipc: int,
    data: ImageData,
    preprocessor: Preprocessor,
    network: AbstractNetwork,
    rng: np.random.Generator,
) -> Int[np.ndarray, " n"]:
    from sklearn.cluster import KMeans
    from sklearn.metrics import pairwise_distances

    features = eqx.filter_jit(lambda images: network.features(images))
    chosen = []
    for rows in _classes(data, rng):
        images = preprocessor(data.train_images[rows])
        found = [np.asarray(features(jnp.asarray(part))) for part in portions(images, 250)]
        x = np.concatenate(found)
        seed = int(rng.integers(2**31))
        centres = KMeans(ipc, random_state=seed).fit(x).cluster_centers_
        distances = pairwise_distances(centres, x)
        taken: list[int] = []
        for one in distances:  # an image is the nearest of one centre alone
            taken.append(next(i for i in np.argsort(one) if i not in taken))
        chosen.append(rows[taken])
    return np.concatenate(chosen)


def _classes(data: ImageData, rng: np.random.Generator) -> list[Int[np.ndarray, " m"]]:
    return [
        rng.permutation(np.flatnonzero(data.train_labels == c))[:MOST_CLUSTERED]
        for c in range(data.classes)
    ]
