"""Quasi-Newton steps on psi, and what is told of them."""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ._outer import Outer
from ._quasi_newton import Curvature, Point, direction, remember, search
from ._record import Hypergradient
from ._result import Result

MEMORY = 20


@dataclasses.dataclass(frozen=True)
class OuterStep:
    """Where `minimize` stands after a step; `print` it.

    Attributes:
        step: how many steps were taken.
        evaluations: how many hypergradients were computed.
        value: the outer loss.
        gradient_norm: the norm of its gradient in psi, but for what bounds hold back.
        psi, theta: where it is.
    """

    step: int
    evaluations: int
    value: float
    gradient_norm: float
    psi: PyTree = dataclasses.field(repr=False)
    theta: PyTree = dataclasses.field(repr=False)

    def __str__(self) -> str:
        return (
            f"step {self.step:4d}  value {self.value:.8g}  gradient norm "
            f"{self.gradient_norm:.2e}  hypergradients {self.evaluations}"
        )


class Minimum(eqx.Module):
    """What `minimize` found.

    Attributes:
        psi: the outer variables, shaped like psi0.
        theta: the solution of the inner problem there, shaped like theta0.
        value: the outer loss there; a scalar.
        hypergradient: the `Hypergradient` there, solved to full precision, with the records of
            the inner problem and of the adjoint.
        steps: how many steps of psi were taken.
        evaluations: how many hypergradients were computed.
        values: the outer loss at psi0 and after each step; shape (steps + 1,).
        gradient_norms: the norm of the hypergradient likewise, but for what bounds hold back.
        result: a `Result`.
    """

    psi: PyTree
    theta: PyTree
    value: Any
    hypergradient: Hypergradient
    steps: int
    evaluations: int
    values: Float[np.ndarray, " steps_and_one"]
    gradient_norms: Float[np.ndarray, " steps_and_one"]
    result: Result

    def __str__(self) -> str:
        return "\n".join(
            (
                f"outer problem      {self.steps} steps, {self.evaluations} hypergradients: "
                f"{Result[self.result]}",
                f"  value            {self.values[0]:.6g} -> {self.values[-1]:.6g}",
                f"  gradient, norm   {self.gradient_norms[0]:.3e} -> {self.gradient_norms[-1]:.3e}",
                str(self.hypergradient),
            )
        )


def _first_step(value: float, gradient: Array) -> Array:
    """Downhill by a tenth of the value, if that moves no number by more than 1."""
    squared = jnp.vdot(gradient, gradient)
    share = 0.1 * abs(value) / squared if value != 0 else 1 / jnp.sqrt(squared)
    return -jnp.minimum(share, 1 / jnp.max(jnp.abs(gradient))) * gradient


class Descent:
    """Quasi-Newton steps on flat psi, from one accepted point to the next."""

    def __init__(self, problem: Outer):
        self.problem, self.flat = problem, problem.start
        self.curvature = Curvature.empty(min(MEMORY, max(2, self.flat.size)), self.flat)
        self.values: list[float] = []
        self.norms: list[float] = []
        self.longest = jnp.zeros((), self.flat.dtype)
        self.quiet = self.exact = False
        self.look(problem(self.flat), new=True)
        problem.strict = not problem.broken(self.h)

    def look(self, h: Hypergradient, *, new: bool) -> None:
        """Take `h` for what is known at psi; the last step's, or a better one of the same psi."""
        self.h, self.value, self.gradient = h, self.problem.value(h), self.problem.gradient(h)
        self.free = self.problem.free(self.flat, self.gradient)
        norm = float(jnp.linalg.norm(jnp.where(self.free, self.gradient, 0)))
        if new:
            self.values.append(self.value)
            self.norms.append(norm)
        else:
            self.values[-1], self.norms[-1] = self.value, norm

    def forget(self) -> None:
        self.curvature = Curvature.empty(len(self.curvature.steps), self.flat)

    def direction(self) -> tuple[Array, float]:
        """Where to go, and the slope there."""
        step = direction(self.curvature, self.gradient, self.free)
        slope = float(jnp.vdot(step, self.gradient))
        if not slope < 0:  # nothing known yet
            self.forget()
            step = _first_step(self.value, jnp.where(self.free, self.gradient, 0))
            slope = float(jnp.vdot(step, self.gradient))
        size = jnp.max(jnp.abs(step))
        reach = 10 * jnp.maximum(jnp.max(jnp.abs(self.flat)), self.longest)
        share = jnp.where((self.longest > 0) & (size > reach), reach / size, 1)
        return share * step, float(share) * slope

    def advance(self) -> Result | None:
        """One step, or one look closer; the result where that ends it."""
        if self.norms[-1] == 0:
            return Result.successful
        step, slope = self.direction()
        little = self.problem.tol * abs(self.value)
        if -slope / 2 <= little and self.exact:
            return Result.successful
        if -slope / 2 <= little and self.quiet:
            self.look(self.problem.exactly(self.flat, self.h), new=False)
            self.exact = True
            return None
        if self.exact:
            self.problem.sharpen()
        found, h = self.search(step, slope)
        if found is None or h is None:
            if self.problem.sharpen():  # perhaps the gradient was too rough
                self.look(self.problem(self.flat), new=False)
                self.forget()
                self.exact = False
                return None
            return Result.successful if -slope / 2 <= 100 * little else Result.no_descent
        moved, before = self.problem.along(self.flat, step, found.share), self.gradient
        moving = moved - self.flat
        self.longest = jnp.maximum(self.longest, jnp.max(jnp.abs(moving)))
        self.flat, self.exact = moved, False
        self.look(h, new=True)
        self.quiet = abs(self.values[-2] - self.value) <= 10 * little
        if self.problem.follow(self.norms[-1] / max(self.norms)):
            # So much smaller a gradient may be no more than an error.
            self.look(self.problem(self.flat, self.values[-2]), new=False)
        self.curvature, _ = remember(self.curvature, moving, self.gradient - before)
        return None

    def search(self, step: Array, slope: float) -> tuple[Point | None, Hypergradient | None]:
        problem, met = self.problem, {}
        eps = float(jnp.finfo(self.flat.dtype).eps)

        def at(share: float) -> Point:
            there = problem.along(self.flat, step, share)
            met[share] = here = problem(there, self.value)
            height = problem.value(here)
            inside = step
            if problem.bounded:
                inside = jnp.where(there == self.flat + share * step, step, 0)
            along = float(jnp.vdot(problem.gradient(here), inside))
            noise = 4 * eps * abs(height)
            if problem.solver is None:  # the change is known to first order
                noise += 0.01 * abs(float(here.change))
            return Point(share, height, along, noise if np.isfinite(noise) else 0.0)

        most = 12 if self.longest == 0 else 6
        found, _ = search(at, Point(0.0, self.value, slope), 1.0, most)
        return found, None if found is None else met[found.share]

    def told(self) -> OuterStep:
        return OuterStep(
            len(self.values) - 1,
            self.problem.evaluations,
            self.value,
            self.norms[-1],
            self.problem.psi(self.flat),
            self.h.theta,
        )

    def minimum(self, result: Result) -> Minimum:
        return Minimum(
            self.problem.psi(self.flat),
            self.h.theta,
            self.h.value,
            self.h,
            len(self.values) - 1,
            self.problem.evaluations,
            np.asarray(self.values),
            np.asarray(self.norms),
            result,
        )
