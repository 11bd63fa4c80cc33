import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree, Scalar

from .._inner import evaluate
from .._loops import Loop, check_loop, iterate
from .._result import Result
from .._tree import norm
from ._base import AbstractSolver, Steps, check_tol, default_tol, refuse_key


class LBFGS(AbstractSolver):
    """optax's limited-memory BFGS with its zoom line search, until a tolerance is reached.

    For smooth inner losses that are not stochastic. The line search is an XLA loop, which is slow
    on a CPU where the loss holds a convolution.

    Attributes:
        max_steps: at most so many steps.
        tol: stop where the norm of the gradient is at most this; a solve that ends above it is
            reported. None: 1e-8 in float64, 1e-3 otherwise.
        memory_size: how many past gradients the approximate Hessian is made of.
        loop: how the steps run, see `bilevel.inverse_hvp.CG`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel.solvers import LBFGS
        >>> theta, record = LBFGS()(lambda theta: jnp.sum((theta - 3) ** 4), jnp.zeros(2))
        >>> bool(record.gradient_norm < 1e-3)
        True
    """

    max_steps: int = eqx.field(default=200, static=True)
    tol: float | None = None
    memory_size: int = eqx.field(default=10, static=True)
    loop: Loop = eqx.field(default="auto", static=True)

    def __check_init__(self):
        check_loop(self.loop)
        check_tol(self.tol)
        if self.max_steps < 1:
            raise ValueError(f"max_steps={self.max_steps} leaves no step to take: give 1 or more.")

    def solve(self, loss, theta0, key):
        refuse_key("LBFGS", key)
        tol = default_tol(theta0) if self.tol is None else self.tol
        transformation = optax.lbfgs(memory_size=self.memory_size)
        state = _start(loss, transformation, theta0, self.max_steps)
        operands = (loss, transformation, tol)
        state = iterate(_step, _done, operands, state, self.max_steps, self.loop)
        return Steps(state.theta, state.count, state.losses, Result.successful, tol)


class _State(eqx.Module):
    theta: PyTree[Array]
    optimiser: PyTree
    count: Int[Array, ""]
    losses: Float[Array, " steps"]
    gradient_norm: Scalar


@eqx.filter_jit
def _start(loss, transformation, theta0, max_steps) -> _State:
    with jax.numpy_dtype_promotion("standard"):
        optimiser = transformation.init(theta0)
    dtype = jnp.result_type(*jax.tree.leaves(theta0))
    losses = jnp.full((max_steps,), jnp.nan, dtype)
    size = norm(jax.grad(lambda theta: evaluate(loss, theta, None))(theta0)).astype(dtype)
    return _State(theta0, optimiser, jnp.asarray(0), losses, size)


def _step(operands, state: _State) -> _State:
    loss, transformation, _ = operands

    def value_of(theta):
        return evaluate(loss, theta, None)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        value, gradient = optax.value_and_grad_from_state(value_of)(
            state.theta, state=state.optimiser
        )
        updates, optimiser = transformation.update(
            gradient, state.optimiser, state.theta, value=value, grad=gradient, value_fn=value_of
        )
        size = norm(optax.tree.get(optimiser, "grad")).astype(state.gradient_norm.dtype)
    losses = state.losses.at[state.count].set(jnp.asarray(value, state.losses.dtype))
    theta = optax.apply_updates(state.theta, updates)
    return _State(theta, optimiser, state.count + 1, losses, size)


def _done(operands, state: _State):
    _, _, tol = operands
    size = state.gradient_norm
    return (size <= jnp.asarray(tol, size.dtype)) | ~jnp.isfinite(size)
