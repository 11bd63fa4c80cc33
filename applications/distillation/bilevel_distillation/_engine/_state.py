"""What a meta-step changes, what it is made of, what it draws, and what it tells."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray, Scalar

from .._problem import AbstractMethod, AbstractSolver, Coreset, Rates
from ._pool import MakeNetwork, Pool


class Recipe(eqx.Module):
    """All that a meta-step is made of, beside its state and the data.

    Attributes:
        method: what gives the coreset its gradient.
        clip_implicit: hold back the uncertain part of that gradient: of an implicit method, clip
            each leaf of the implicit part to the norm of the direct one.
        optimiser: of the coreset.
        average: the moving average of the coreset, an `optax.ema`.
        pool_optimiser: of the networks of the pool.
        make_network: a fresh network from a key.
        batch_size: real images a meta-step.
        pool_max_steps: the age at which a network of the pool is replaced.
        microbatch: networks of the pool are trained on parts of this size; None: on all at once.
        augment: change the distilled images at random in each meta-gradient.
        mesh: the devices, where there are several and the step is compiled whole.
    """

    method: AbstractMethod
    clip_implicit: bool = eqx.field(static=True)
    optimiser: optax.GradientTransformation = eqx.field(static=True)
    average: optax.GradientTransformation = eqx.field(static=True)
    pool_optimiser: optax.GradientTransformation = eqx.field(static=True)
    make_network: MakeNetwork = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    pool_max_steps: int = eqx.field(static=True)
    microbatch: int | None = eqx.field(default=None, static=True)
    augment: bool = eqx.field(default=False, static=True)
    mesh: Mesh | None = eqx.field(default=None, static=True)

    @property
    def has_rates(self) -> bool:
        """Whether Adam's rates matter."""
        return self.method.has_rates

    def solved_by(self, solver: AbstractSolver) -> "Recipe":
        """The same, where the method has another solver."""
        method: Any = self.method
        return replace(self, method=replace(method, solver=solver))


class State(eqx.Module):
    """What a meta-step changes.

    Attributes:
        coreset: the current iterate.
        optimiser: the state of its optimiser.
        averaged: the moving average of the coreset, debiased: what is evaluated and released.
        average: the state of the moving average.
        pool: the networks.
        rates: Adam's learning rates.
        carried: what the method carries from one step to the next; None for most.
    """

    coreset: Coreset
    optimiser: Any
    averaged: Coreset
    average: Any
    pool: Pool
    rates: Rates
    carried: Any = None


class Draws(eqx.Module):
    """The random choices of one meta-step, made from the run's seed and its number alone.

    Attributes:
        model: which network of the pool.
        pool_steps: how many training steps it gets afterwards.
        rows: which real images make the batch.
        key: for a fresh network.
    """

    model: Int[Array, ""]
    pool_steps: Int[Array, ""]
    rows: Int[Array, " batch"]
    key: PRNGKeyArray


class Metrics(eqx.Module):
    """What is written of a meta-step.

    Attributes:
        values: scalars by name: those that the method measures, `loss` among them, and the
            `accuracy` of its predictions on the batch, where it makes any. Of the methods with an
            inner problem:

            - `inner_steps`, `adjoint_steps`: of the two solves; 0 by Cholesky.
            - `implicit_share`: |implicit| / |direct + implicit| for the images.
            - `inner_error`, `adjoint_error`: of two linear solves, estimated, relative, in the
              norm of what they invert.
            - `inner_gradient_norm`, at theta*, and `adjoint_residual`, relative: of other solves.
            - `inner_descended`, `inner_monotone`: whether the inner loss ended lower, and never
              rose; `adjoint_descended`, `adjoint_monotone`: likewise the adjoint's (equation 7).
    """

    values: dict[str, Scalar]

    def __getitem__(self, name: str) -> Scalar:
        return self.values[name]

    @property
    def loss(self) -> Scalar:
        """The outer loss."""
        return self.values["loss"]

    @property
    def accuracy(self) -> Scalar:
        """The share of right predictions on the batch."""
        return self.values["accuracy"]

    def course(self) -> tuple[Scalar | bool, ...]:
        """Whether the inner loss and the adjoint's descended, and whether each step of them did;
        of a solve that has no loss, yes.
        """
        return tuple(self.values.get(name, True) for name in COURSE)


COURSE = ("inner_descended", "inner_monotone", "adjoint_descended", "adjoint_monotone")
