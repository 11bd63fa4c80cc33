"""What a distilled set is worth: networks trained on it, and on real images by the same recipe."""

from collections.abc import Callable
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._artifacts import DistilledSet
from .._artifacts import match_classes as match_classes
from .._config import RunConfig
from .._engine import MakeNetwork, check_network, for_selection, judging_maker
from .._problem import Coreset, centred_one_hot, choose_per_class
from ..data import ImageData, Preprocessor
from ._evaluation import evaluate


class Held(eqx.Module):
    """The held-out images, preprocessed, on the device."""

    images: Float[Array, "n height width channels"]
    labels: Int[Array, " n"]


def hold(data: ImageData, preprocessor: Preprocessor) -> Held:
    """Preprocess the held-out images."""
    return Held(jnp.asarray(preprocessor(data.test_images)), jnp.asarray(data.test_labels))


def hold_watched(
    config: RunConfig, data: ImageData, apart: ImageData | None, preprocessor: Preprocessor
) -> Held | None:
    """Training images to select by, preprocessed; None where nothing is selected.

    Args:
        config: its `evaluation.select` says whether.
        data: what the run sees.
        apart: what was held out of it (`held_out`); None: a tenth of the training images is taken,
            which the set has been distilled from.
        preprocessor: brings images into the set's space.
    """
    if not config.evaluation.select:
        return None
    part = for_selection(data, apart)
    return Held(jnp.asarray(preprocessor(part.train_images)), jnp.asarray(part.train_labels))


def judge(
    config: RunConfig,
    held: Held,
    distilled: DistilledSet,
    *,
    seed: int = 0,
    done: Callable[[float], None] = lambda accuracy: None,
    make_network: MakeNetwork | None = None,
    watched: Held | None = None,
    noted: Callable[[float], None] = lambda accuracy: None,
) -> list[float]:
    """Test accuracies of networks trained on a distilled set, by the config's recipe.

    Args:
        config: complete settings: the network, the evaluation, the seed.
        held: the held-out images.
        distilled: what to train on.
        seed: another one gives other networks.
        done: called with each accuracy as it comes.
        make_network: a function from a key to a network, in place of the config's.
        watched: held-out training images, by which `config.evaluation.select` selects.
        noted: called with the accuracy of each network on them.
    """
    labels, classes = distilled.labels, distilled.labels.shape[1]
    if config.evaluation.labels == "hard":
        labels = centred_one_hot(labels.argmax(1), classes)
    images, labels = Coreset(
        jnp.asarray(distilled.images), jnp.asarray(labels), jnp.zeros(()), distilled.flip
    ).support()
    height, width, channels = distilled.images.shape[1:]
    shape = (height, width, channels)
    if make_network is not None:
        check_network(make_network, shape, classes)
    maker = make_network or judging_maker(config, shape, classes)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), 3), seed)
    rows = None if watched is None else (watched.images, watched.labels)
    return evaluate(
        images, labels, held.images, held.labels, maker, config.evaluation, key, done, rows, noted
    )


def judge_random_subsets(
    config: RunConfig,
    data: ImageData,
    held: Held,
    distilled: DistilledSet,
    *,
    done: Callable[[float], None] = lambda accuracy: None,
    make_network: MakeNetwork | None = None,
    watched: Held | None = None,
) -> list[float]:
    """The same for random subsets of the same size, a new one for each network."""
    accuracies = []
    one = replace(config, evaluation=replace(config.evaluation, repeats=1))
    for i in range(config.evaluation.repeats):
        rng = np.random.default_rng([config.seed, 2, i])
        rows = choose_per_class(data.train_labels, data.classes, config.ipc, rng)
        subset = _real_images(data, rows, distilled)
        accuracies += judge(one, held, subset, seed=i, done=done, make_network=make_network,
                            watched=watched)  # fmt: skip
    return accuracies


def judge_all_data(
    config: RunConfig,
    data: ImageData,
    held: Held,
    distilled: DistilledSet,
    *,
    done: Callable[[float], None] = lambda accuracy: None,
    watched: Held | None = None,
) -> list[float]:
    """The same for the whole training set, which has hard labels."""
    rows = np.arange(data.train_images.shape[0])
    return judge(config, held, _real_images(data, rows, distilled), done=done,
                 watched=watched)  # fmt: skip


def _real_images(data: ImageData, rows, distilled: DistilledSet) -> DistilledSet:
    """Training images, in place of distilled ones."""
    labels = data.train_labels[rows]
    return replace(
        distilled,
        images=distilled.preprocessor(data.train_images[rows]),
        labels=centred_one_hot(labels, data.classes),
        classes=labels.astype(np.int32),
    )
