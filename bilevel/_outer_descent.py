"""Quasi-Newton steps on psi, and what is told of them."""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._outer import Look, Outer
from ._quasi_newton import Curvature, Point, direction, remember, search
from ._record import Hypergradient
from ._result import Result
from ._shown import as_table
from ._types import PyTree

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
        hypergradient: the `Hypergradient` there, solved to full precision unless the callback
            ended it, with the records of the inner problem and of the adjoint.
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

    def _repr_html_(self) -> str:
        return as_table("Minimum", str(self))


class Descent:
    """Quasi-Newton steps on flat psi, from one accepted point to the next."""

    def __init__(self, problem: Outer):
        self.problem, self.flat = problem, problem.start
        self.curvature = Curvature.empty(min(MEMORY, max(2, self.flat.size)), self.flat)
        self.longest = jnp.zeros((), self.flat.dtype)
        self.quiet = self.exact = False
        self.now = problem(self.flat)
        problem.settle(self.now)
        self.values, self.norms = [self.now.value], [self.now.norm]
        problem.strict = not self.now.broken

    def look_again(self, now: Look) -> None:
        """A better look at the same psi, if it is one."""
        if np.isfinite(now.value):
            self.now = now
            self.problem.settle(now)
            self.values[-1], self.norms[-1] = now.value, now.norm

    def look_exactly(self) -> None:
        self.look_again(self.problem.exactly(self.flat, self.now))
        self.exact = True

    def steep(self) -> bool:
        """Whether the value certainly falls from here."""
        enough = 100 * self.problem.little(self.now)
        return self.now.norm > 0 and -self.direction()[1] / 2 > enough

    def forget(self) -> None:
        self.curvature = Curvature.empty(len(self.curvature.steps), self.flat)

    def settled(self) -> bool:
        """Whether no gradient as near as this one's leads lower than what no longer counts, and the
        value is as near as that.
        """
        now, off, little = self.now, 1 + self.now.distance, self.problem.little(self.now)
        return -self.direction()[1] / 2 * off**2 <= little and abs(now.change) * off <= little

    def direction(self) -> tuple[Array, float]:
        """Where to go, and the slope there."""
        now, about = self.now, (self.flat, self.longest)
        step, slope = _direction(self.curvature, now.gradient, now.free, *about)
        if not float(slope) < 0:  # nothing known yet
            self.forget()
            value = jnp.asarray(now.value, self.flat.dtype)
            step, slope = _first_step(value, now.gradient, now.free)
        return step, float(slope)

    def advance(self) -> Result | None:
        """One step, or one look closer; the result where that ends it."""
        if self.norms[-1] == 0:
            return Result.successful
        step, slope = self.direction()
        little = self.problem.little(self.now)
        if -slope / 2 <= little and self.exact:
            return Result.successful
        if -slope / 2 <= little and self.quiet:
            self.look_exactly()
            return None
        if self.exact:
            self.problem.sharpen()
        found, there = self.search(step, slope)
        if found is None or there is None:
            self.problem.settle(self.now)
            if self.problem.sharpen():  # perhaps the gradient was too rough
                self.look_again(self.problem(self.flat))
                self.forget()
                self.exact = False
                return None
            return Result.successful if -slope / 2 <= 100 * little else Result.no_descent
        self.move(there, little)
        return None

    def move(self, there: Look, little: float) -> None:
        before, start = self.now, self.flat
        self.flat, self.now, self.exact = there.flat, there, False
        self.problem.settle(there)
        self.values.append(there.value)
        self.norms.append(there.norm)
        self.quiet = abs(before.value - there.value) <= 10 * little
        if self.problem.follow(there.norm / max(self.norms)):
            # So much smaller a gradient may be no more than an error.
            self.look_again(self.problem(self.flat, before.value))
        pair = (start, before.gradient), (self.flat, self.now.gradient)
        self.curvature, self.longest = _remembered(self.curvature, *pair, self.longest)

    def search(self, step: Array, slope: float) -> tuple[Point | None, Look | None]:
        problem, met = self.problem, {}
        eps = float(jnp.finfo(self.flat.dtype).eps)

        def at(share: float) -> Point:
            # From the nearest place that is no higher: another may be in another valley of theta.
            lower = [place for place, look in met.items() if look.value <= self.now.value]
            near = min([0.0, *lower], key=lambda place: abs(place - share))
            problem.start_from(met.get(near, self.now))
            met[share] = there = problem(self.flat, self.now.value, step, share)
            noise = 4 * eps * abs(there.value)
            if problem.solver is None:  # the change is known to first order
                noise += 0.01 * abs(there.change)
            return Point(share, there.value, there.slope, noise if np.isfinite(noise) else 0.0)

        most = 12 if self.longest == 0 else 6
        found, _ = search(at, Point(0.0, self.now.value, slope), 1.0, most)
        return found, None if found is None else met[found.share]

    def told(self) -> OuterStep:
        return OuterStep(
            len(self.values) - 1,
            self.problem.evaluations,
            self.now.value,
            self.now.norm,
            self.problem.psi(self.flat),
            self.now.h.theta,
        )

    def minimum(self, result: Result) -> Minimum:
        return Minimum(
            self.problem.psi(self.flat),
            self.now.h.theta,
            self.now.h.value,
            self.now.h,
            len(self.values) - 1,
            self.problem.evaluations,
            np.asarray(self.values),
            np.asarray(self.norms),
            result,
        )


@eqx.filter_jit
def _direction(curvature: Curvature, gradient: Array, free: Array, flat: Array, longest: Array):
    """The quasi-Newton step, if it is not ten times as long as anything so far; and its slope."""
    step = direction(curvature, gradient, free)
    size = jnp.max(jnp.abs(step))
    reach = 10 * jnp.maximum(jnp.max(jnp.abs(flat)), longest)
    too_long = (longest > 0) & (size > reach)
    step = jnp.where(too_long, reach / jnp.where(too_long, size, 1), 1) * step
    return step, jnp.vdot(step, gradient)


@eqx.filter_jit
def _first_step(value: Array, gradient: Array, free: Array):
    """Downhill by a tenth of the value, if that moves no number by more than 1; and its slope."""
    gradient = jnp.where(free, gradient, 0)
    squared, value = jnp.vdot(gradient, gradient), jnp.abs(value)
    share = jnp.where(value > 0, 0.1 * value / squared, 1 / jnp.sqrt(squared))
    share = jnp.minimum(share, 1 / jnp.max(jnp.abs(gradient)))
    return -share * gradient, -share * squared


@eqx.filter_jit
def _remembered(curvature: Curvature, before: tuple, now: tuple, longest: Array):
    step, change = (there - here for here, there in zip(before, now, strict=True))
    curvature, _ = remember(curvature, step, change)
    return curvature, jnp.maximum(longest, jnp.max(jnp.abs(step)))
