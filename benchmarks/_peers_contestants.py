"""The contestants: each makes a function of nothing that returns the hypergradient, compiled where
it is one program, so that clearing what was compiled spares it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from _peers_problems import Problem, arrays, jax_losses, to_torch, torch_ops
from _peers_reference import MAX_STEPS, Reference

from bilevel import hypergradient
from bilevel.inverse_hvp import CG


@dataclass(frozen=True)
class Contestant:
    call: Callable[[], Any]
    megabytes: float | None = None  # temporary memory of the compiled program


def compiled(gradient, *arguments) -> Contestant:
    program = jax.jit(gradient).lower(*arguments).compile()
    analysis = program.memory_analysis()
    return Contestant(
        lambda: jax.block_until_ready(program(*arguments)),
        None if analysis is None else analysis.temp_size_in_bytes / 1e6,
    )


def ours(problem: Problem, reference: Reference, jit: bool) -> Contestant:
    inner, outer = jax_losses(problem)
    theta, psi, train, validation = arrays(problem, np.float32)
    inverse = CG(rtol=reference.rtol, max_steps=reference.steps + 20)
    compute = hypergradient(outer, inner, solver=lambda _, start: start, inverse_hvp=inverse)

    def gradient(theta, psi, train, validation):
        return compute(psi, theta, inner_args=train, outer_args=validation).grad

    if jit:
        return compiled(gradient, theta, psi, train, validation)
    return Contestant(lambda: jax.block_until_ready(gradient(theta, psi, train, validation)))


def jaxopt_root(problem: Problem, reference: Reference) -> Contestant:
    """`custom_root` with `solve_cg`, all of it under one jit."""
    from jaxopt.implicit_diff import custom_root
    from jaxopt.linear_solve import solve_cg

    inner, outer = jax_losses(problem)
    solve = partial(solve_cg, tol=reference.rtol, maxiter=MAX_STEPS)

    def gradient(theta, psi, train, validation):
        def optimality(theta, psi):
            return jax.grad(inner)(theta, psi, *train)

        root = custom_root(optimality, solve=solve)(lambda theta, psi: theta)
        return jax.grad(lambda psi: outer(root(theta, psi), psi, *validation))(psi)

    return compiled(gradient, *arrays(problem, np.float32))


def _optimistix_root(inputs):
    return inputs[1], None


def _optimistix_condition(root, _, inputs):
    psi, _, train, inner, _ = inputs  # the last: a while loop, for solvers that take steps
    # Any multiple has the same root. lineax's CG calls a curvature of less than 100 epsilons times
    # the number of parameters a breakdown, which those of a loss with a small penalty are.
    return jax.tree.map(lambda leaf: 2.0**20 * leaf, jax.grad(inner)(root, psi, *train))


def optimistix_adjoint(problem: Problem, reference: Reference) -> Contestant:
    """`ImplicitAdjoint` with lineax's CG, told the steps: its tolerance is another quantity."""
    import lineax as lx
    import optimistix as optx

    inner, outer = jax_losses(problem)
    solver = lx.CG(rtol=0.0, atol=0.0, stabilise_every=None, max_steps=reference.steps)
    adjoint, tags = optx.ImplicitAdjoint(solver), frozenset({lx.positive_semidefinite_tag})

    def gradient(theta, psi, train, validation):
        def through(psi):
            inputs = (psi, theta, train, inner)
            root, _ = adjoint.apply(_optimistix_root, _optimistix_condition, inputs, tags)
            return outer(root, psi, *validation)

        return jax.grad(through)(psi)

    return compiled(gradient, *arrays(problem, np.float32))


def _tensors(problem):
    """theta, psi with gradients; training and validation data."""
    theta = tuple(to_torch(leaf).requires_grad_() for leaf in problem.theta)
    psi = to_torch(problem.psi).requires_grad_()
    return theta, psi, tuple(map(to_torch, problem.train)), tuple(map(to_torch, problem.validation))


def torchopt_root(problem: Problem, reference: Reference) -> Contestant:
    """`custom_root` with `solve_cg`."""
    import torch
    from torchopt.diff.implicit import custom_root
    from torchopt.linear_solve import solve_cg

    theta, psi, train, validation = _tensors(problem)
    ops = torch_ops()

    def optimality(theta, psi):
        return torch.func.grad(lambda t: problem.inner(ops, t, psi, *train))(theta)

    solve = solve_cg(rtol=reference.rtol, maxiter=MAX_STEPS)
    root = custom_root(optimality, argnums=1, solve=solve)(lambda theta, psi: theta)

    def call():
        loss = problem.outer(ops, root(theta, psi), *validation)
        return torch.autograd.grad(loss, psi)[0]

    return Contestant(call)


def betty(problem: Problem, reference: Reference, method: str) -> Contestant:
    """The function behind `Config(type=method)`, without the engine and its training loop."""
    import torch
    from betty.hypergradient import jvp_fn_mapping

    theta, psi, train, validation = _tensors(problem)
    ops, apply = torch_ops(), jvp_fn_mapping[method]
    settings = {f"{method}_iterations": reference.steps}
    alpha = {"cg_alpha": 1.0, "neumann_alpha": 1 / reference.curvature}
    lower = SimpleNamespace(
        paths=[],
        config=SimpleNamespace(**settings, **alpha),
        cur_batch=train,
        training_step_exec=lambda batch: problem.inner(ops, theta, psi, *batch),
        trainable_parameters=lambda: theta,
        parameters=lambda: theta,
    )
    upper = SimpleNamespace(trainable_parameters=lambda: (psi,))

    def call():
        g = torch.autograd.grad(problem.outer(ops, theta, *validation), theta)
        return apply(g, lower, upper, False)[0]

    return Contestant(call)


def hypergrad_cg(problem: Problem, reference: Reference) -> Contestant:
    from hypergrad.approx_hypergrad import conjugate_gradient

    theta, psi, train, validation = _tensors(problem)
    theta, psi, ops = tuple(t.detach() for t in theta), psi.detach(), torch_ops()

    def inner(theta, psi):
        return problem.inner(ops, theta, psi[0], *train)

    def outer(theta, psi):
        return problem.outer(ops, theta, *validation) + 0 * psi[0].sum()

    return Contestant(
        lambda: conjugate_gradient(inner, outer, theta, (psi,), reference.steps, 1.0)[0]
    )


@dataclass(frozen=True)
class Peer:
    make: Callable[[Problem, Reference], Contestant]
    module: str
    distribution: str


PEERS = {
    "jaxopt": Peer(jaxopt_root, "jaxopt", "jaxopt"),
    "optimistix": Peer(optimistix_adjoint, "optimistix", "optimistix"),
    "torchopt": Peer(torchopt_root, "torchopt", "torchopt"),
    "betty_cg": Peer(partial(betty, method="cg"), "betty", "betty-ml"),
    "betty_neumann": Peer(partial(betty, method="neumann"), "betty", "betty-ml"),
    "hypergrad": Peer(hypergrad_cg, "hypergrad", "hypergrad"),
}


def contestants(problem, reference, peers) -> dict[str, Callable[[], Contestant]]:
    made = {
        "bilevel": partial(ours, problem, reference, False),
        "bilevel, jit": partial(ours, problem, reference, True),
    }
    return made | {name: partial(PEERS[name].make, problem, reference) for name in peers}


def installed(names) -> list[str]:
    found = []
    for name in names:
        if find_spec(PEERS[name].module) is None:
            print(f"{name} is not installed: left out")
        else:
            found.append(name)
    return found


def versions(peers) -> dict[str, str]:
    found = {}
    for distribution in [PEERS[name].distribution for name in peers] + ["torch", "lineax"]:
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:
            continue
    return found
