"""The mean over keys of what is stochastic, and how far it can be trusted."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from ._inner import check_callable
from ._mistakes import check_key, check_steps
from ._result import Result, worst
from ._shown import as_table
from ._tree import norm
from ._types import PyTree


class KeyMean(eqx.Module):
    """What `over_keys` returns.

    Attributes:
        mean: over the keys, shaped like what the function returns.
        standard_error: of the mean, number by number, likewise: the standard deviation over the
            keys over the square root of their number. None where the function returns no
            floating-point array.
        samples: how many keys.
    """

    mean: PyTree
    standard_error: PyTree
    samples: int = eqx.field(static=True)

    @property
    def relative_error(self) -> Any:
        """The norm of the standard error over that of the mean; a scalar."""
        arrays = eqx.filter(self.mean, eqx.is_inexact_array)
        return norm(self.standard_error) / norm(arrays)

    def __str__(self) -> str:
        return f"mean of {self.samples} keys, relative error {float(self.relative_error):.1e}"

    def _repr_html_(self) -> str:
        return as_table("KeyMean", str(self))


def over_keys(function: Callable[..., Any], samples: int) -> Callable[..., KeyMean]:
    """A stochastic function's mean over several keys, with its standard error.

    For stochastic hypergradients, whose noise is otherwise unknown, and for `subsample_backward`:

        noisy = implicit_grad(outer, inner, solver=..., inverse_hvp=SGD(...))
        estimate = over_keys(noisy, 16)(psi, theta0, key=key)
        estimate.mean, estimate.standard_error

    Args:
        function: any that takes `key=` and returns a pytree of arrays, a `Hypergradient` included.
        samples: how many keys, at least 2. The calls come one after the other, and take the memory
            of one; under `jax.jit` each is compiled.

    Returns:
        A function with the arguments of `function`, which returns a `KeyMean`. Floating-point
        arrays are averaged; of a `Result` the worst is kept, of all else what the first key gave.

    Raises:
        ValueError: fewer than two samples, or no key.

    Examples:
        >>> import jax
        >>> from bilevel import over_keys
        >>> noisy = lambda x, key: x + jax.random.normal(key)
        >>> found = over_keys(noisy, 100)(2.0, key=jax.random.key(0))
        >>> bool(abs(found.mean - 2.0) < 3 * found.standard_error)
        True
    """
    check_callable(function, "function")
    check_steps(samples, "samples", least=0)
    if samples < 2:
        raise ValueError(
            f"samples={samples} has no spread to estimate an error from: give 2 or more."
        )

    def averaged(*args: Any, key: PRNGKeyArray | None = None, **kwargs: Any) -> KeyMean:
        if key is None:
            raise ValueError("key=None has nothing to average over: pass a jax.random.key.")
        check_key(key)
        kept, mean, squares = None, None, None
        for count, one in enumerate(jax.random.split(key, samples), start=1):
            found = function(*args, key=one, **kwargs)
            kept = found if kept is None else _worse(kept, found)
            mean, squares = _add(mean, squares, eqx.filter(found, eqx.is_inexact_array), count)
        rest = eqx.filter(kept, eqx.is_inexact_array, inverse=True)
        share = samples * (samples - 1)
        error = jax.tree.map(lambda square: jnp.sqrt(square / share), squares)
        return KeyMean(eqx.combine(mean, rest), error, samples)

    return averaged


@eqx.filter_jit
def _add(mean, squares, found, count: int):
    """Welford's update: of the mean, and of the sum of squares about it."""
    if mean is None:
        return found, jax.tree.map(jnp.zeros_like, found)
    apart = jax.tree.map(jnp.subtract, found, mean)
    mean = jax.tree.map(lambda m, d: m + d / count, mean, apart)
    squares = jax.tree.map(
        lambda square, d, f, m: square + d * (f - m), squares, apart, found, mean
    )
    return mean, squares


def _worse(kept, found):
    def choose(before, now):
        return worst(before, now) if _is_result(before) else before

    return jax.tree.map(choose, kept, found, is_leaf=_is_result)


def _is_result(part: Any) -> bool:
    return isinstance(part, type(Result.successful))
