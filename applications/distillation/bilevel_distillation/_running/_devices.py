"""Several devices, of one process or of several: JAX's own runtime and partitioner.

Training images, distilled images and networks of the pool are split along their first axis over a
mesh of one axis, where its length is a multiple of the number of devices; elsewhere each device
holds the whole. Several processes run the same program, and the first alone has the run's folder.
"""

import os
import pickle
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "devices"
T = TypeVar("T")


def make_mesh(devices: int | Literal["all"]) -> Mesh | None:
    """A mesh of the first devices of all processes together; None for one.

    Raises:
        ValueError: more than there are, or not all of them where there are several processes.
    """
    present, processes = jax.device_count(), jax.process_count()
    count = present if devices == "all" else devices
    if processes > 1 and count != present:
        raise ValueError(
            f"devices={devices} leaves some of the {present} devices of {processes} processes "
            f"idle: give all."
        )
    if count > present:
        raise ValueError(
            f"devices={devices} is more than there are: give at most {present}, or all."
        )
    if count == 1:
        return None
    return Mesh(np.asarray(jax.devices()[:count]), (AXIS,), axis_types=(AxisType.Auto,))


def layout(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Split along the first axis where that comes out even, else whole on each device."""
    even = bool(shape) and shape[0] > 0 and shape[0] % mesh.size == 0
    return NamedSharding(mesh, PartitionSpec(AXIS) if even else PartitionSpec())


def spread(mesh: Mesh | None, tree: T) -> T:
    """The arrays of `tree`, the same in every process, laid out over the mesh."""
    if mesh is None:
        return tree

    def place(leaf):
        whole = np.asarray(leaf)
        sharding = layout(mesh, whole.shape)
        return jax.make_array_from_callback(whole.shape, sharding, lambda at: whole[at])

    return jax.tree.map(lambda leaf: place(leaf) if eqx.is_array(leaf) else leaf, tree)


def constrain(mesh: Mesh | None, tree: T) -> T:
    """The same inside a compiled function."""
    if mesh is None:
        return tree

    def keep(leaf):
        return lax.with_sharding_constraint(leaf, layout(mesh, leaf.shape))

    return jax.tree.map(lambda leaf: keep(leaf) if eqx.is_array(leaf) else leaf, tree)


def pick(stacked: T, index: Any) -> T:
    """One slice along the first axis of each array, by a sum in which no other is left: XLA would
    gather the whole of an array that is split along it.
    """

    def at(leaf):
        one = jnp.arange(leaf.shape[0]) == index
        masked = jnp.where(one.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0)
        return jnp.sum(masked, axis=0, dtype=leaf.dtype)

    return jax.tree.map(lambda leaf: at(leaf) if eqx.is_array(leaf) else leaf, stacked)


def gather(mesh: Mesh | None, tree: T) -> T:
    """The arrays of `tree` whole, on the first device of each process. Every process must call."""
    if mesh is None:
        return tree

    def fetch(leaf):
        return jnp.asarray(np.asarray(_whole(mesh, leaf)))

    return jax.tree.map(lambda leaf: fetch(leaf) if eqx.is_array(leaf) else leaf, tree)


@eqx.filter_jit
def _whole(mesh: Mesh, leaf):
    return lax.with_sharding_constraint(leaf, NamedSharding(mesh, PartitionSpec()))


def join_processes() -> None:
    """Make this process one of several; before anything is computed.

    JAX finds the others by itself on Slurm, Open MPI, Kubernetes and Cloud TPUs; elsewhere by the
    environment variables JAX_COORDINATOR_ADDRESS (host:port of the first process),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID (from 0).

    Raises:
        ValueError: they are missing, or no numbers.
    """
    given = {}
    for name in ("num_processes", "process_id"):
        text = os.environ.get(variable := f"JAX_{name.upper()}")
        if text is not None and not text.isdecimal():
            raise ValueError(f"{variable}={text!r} is no number: give one, e.g. 2.")
        given[name] = None if text is None else int(text)
    try:
        jax.distributed.initialize(**given)
    except ValueError as error:
        reason = str(error).rstrip(".")
        raise ValueError(
            f"--distributed does not find the other processes ({reason}): set "
            "JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES and JAX_PROCESS_ID."
        ) from error


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def from_first(function: Callable[[], T]) -> T:
    """What `function()` gives or raises in the first process, in all. Every process must call."""
    if jax.process_count() == 1:
        return function()
    answer: tuple[Any, Exception | None] = (None, None)
    if is_first():
        try:
            answer = (function(), None)
        except Exception as error:
            answer = (None, error)
    found, error = pickle.loads(_broadcast(pickle.dumps(answer)))
    if error is not None:
        raise error
    return found


def _broadcast(content: bytes) -> bytes:
    """That of the first process."""
    from jax.experimental.multihost_utils import broadcast_one_to_all

    length = int(broadcast_one_to_all(np.asarray(len(content), np.int32)))
    buffer = np.zeros(length, np.uint8)
    if is_first():
        buffer[:] = np.frombuffer(content, np.uint8)
    return np.asarray(broadcast_one_to_all(buffer)).tobytes()


def in_any(*flags: bool) -> tuple[bool, ...]:
    """Which of the flags are set in any of the processes. Every process must call."""
    if jax.process_count() == 1:
        return flags
    from jax.experimental.multihost_utils import process_allgather

    return tuple(map(bool, np.any(process_allgather(np.asarray(flags)), axis=0)))
