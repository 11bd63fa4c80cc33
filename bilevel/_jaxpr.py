"""Walks over what jax has traced: its equations, and its values under another meaning."""

from collections.abc import Callable, Iterator
from typing import Any

import jax

JITS = ("jit", "pjit")


def holds_primitive(primitive: str, jaxpr: Any) -> bool:
    """Whether it calls the primitive of that name, however deep."""
    return any(equation.primitive.name == primitive for equation in equations(jaxpr))


def equations(jaxpr: Any, into: Callable[[Any], bool] = lambda equation: True) -> Iterator[Any]:
    """Its equations, and those of what they call, where `into` says so."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation
        if into(equation):
            for parameter in jax.tree.leaves(equation.params, is_leaf=_is_jaxpr):
                if _is_jaxpr(parameter):
                    yield from equations(parameter, into)


def _is_jaxpr(x: Any) -> bool:
    return hasattr(x, "eqns") or hasattr(x, "jaxpr")


def is_jit(equation: Any) -> bool:
    return equation.primitive.name in JITS


def interpret(
    jaxpr: Any,
    consts: list,
    inputs: list,
    rule: Callable[[Any, list], list],
    literal: Callable[[Any], Any],
) -> list:
    """The outputs of a jaxpr, with `rule(equation, values)` in place of each equation.

    What is jitted inside is gone through; `literal` is what a number written in it stands for.
    """
    known = dict(zip(jaxpr.constvars, consts, strict=True))
    known |= zip(jaxpr.invars, inputs, strict=True)

    def read(atom):
        return literal(atom.val) if hasattr(atom, "val") else known[atom]

    for equation in jaxpr.eqns:
        values = [read(atom) for atom in equation.invars]
        if is_jit(equation):
            inner = equation.params["jaxpr"]
            given = list(map(literal, inner.consts))
            out = interpret(inner.jaxpr, given, values, rule, literal)
        else:
            out = rule(equation, values)
        known |= zip(equation.outvars, out, strict=True)
    return [read(atom) for atom in jaxpr.outvars]
