"""What memory a run needs at least, held against what the machine has."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._config import RunConfig
from .._problem import AbstractMethod
from .._running import held_by_one, on_cpu
from ..data import ImageData, in_gigabytes, memory_of_machine, whitened_values
from ._pool import MakeNetwork


def check_room(
    config: RunConfig,
    data: ImageData,
    make_network: MakeNetwork,
    method: AbstractMethod | None = None,
) -> None:
    """Raise where a complete config asks for more memory than there is; the sentence names the
    setting that most of it goes to.

    An accelerator says itself what does not fit.
    """
    network = eqx.filter_eval_shape(make_network, jax.random.key(0))
    if not on_cpu():
        return
    values = data.train_images[0].size
    batch = min(config.batch_size or 1, len(data.train_images))
    parameters = sum(
        leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(network) if eqx.is_array(leaf)
        or isinstance(leaf, jax.ShapeDtypeStruct)
    )  # fmt: skip
    matrix = whitened_values(data.image_shape) ** 2 if config.zca else 0
    # Of a network Adam keeps two more, of the coreset there is its optimiser and its average, and
    # whitening takes the covariance, its eigenvectors and what LAPACK works with.
    needs = {
        "resolution": held_by_one(network, data.image_shape, jnp.dtype("float32"))
        + data.train_images.nbytes + 5 * data.test_images.nbytes,
        "batch_size": 4 * values * batch,
        "ipc": 6 * 4 * values * config.ipc * data.classes,
        "pool_size": 3 * parameters * (config.pool_size or 1),
        "zca": 6 * 8 * matrix,
    }  # fmt: skip
    if method is not None and method.preparation:
        shapes = jax.tree.leaves(method.prepared_like(network))
        needs[next(iter(method.preparation))] = sum(s.size * s.dtype.itemsize for s in shapes)
    needed, there = sum(needs.values()), memory_of_machine()
    if needed <= there:
        return
    most = max(needs, key=lambda name: needs[name])
    if most == "pool_size" and (config.pool_size or 0) <= 30:
        most = "width"
    given = {"resolution": f"images of {data.image_shape[0]} x {data.image_shape[1]} pixels"}
    remedy = "use --no-zca" if most == "zca" else f"give a smaller --{most.replace('_', '-')}"
    raise ValueError(
        f"the run needs at least {in_gigabytes(needed)} of memory, of {in_gigabytes(there)} that "
        f"there are, most of it for {given.get(most, f'{most}={getattr(config, most)}')}: "
        f"{remedy}."
    )
