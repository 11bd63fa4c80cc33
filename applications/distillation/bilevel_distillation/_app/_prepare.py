"""What a method does once, before the first step of a run."""

import jax
import jax.numpy as jnp
import numpy as np

from .._artifacts import RunFolder, find_prepared, keep_prepared
from .._engine import Distillation, take
from .._running import Reporter, from_first, gather, is_first


def prepare(distillation: Distillation, folder: RunFolder, reporter: Reporter) -> None:
    """Take what this run, or one in a folder beside it, made of the same real images; or make it,
    and keep it.
    """
    method = distillation.recipe.method
    if distillation.is_prepared:
        return
    if method.preparation is None:
        distillation.prepare()
        return
    wanted = distillation.made_for()
    found = from_first(lambda: find_prepared(folder.path, wanted))
    if found is not None:
        network = take(distillation.whole_state().pool, jnp.asarray(0)).network
        form = jax.tree.structure(method.prepared_like(network))
        distillation.give_prepared(jax.tree.unflatten(form, found[0]), found[1])
        return
    reporter.begin("preparing", method.parts, 0)
    distillation.prepare(lambda: reporter.advance(1))
    reporter.end()
    arrays = jax.tree.leaves(gather(distillation.mesh, distillation.prepared))
    if is_first():
        seconds = distillation.preparation_seconds
        keep_prepared(folder.path, list(map(np.asarray, arrays)), wanted, seconds)
