"""Walks over what jax has traced: its equations, and its values under another meaning."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

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


def alike(one: Any, other: Any) -> bool:
    """Whether two jaxprs are the same program, whatever their variables are called.

    Functions in their parameters (derivative rules, callbacks) must be the very same; what cannot
    be compared is not alike.
    """
    if one is other:
        return True
    if len(one.eqns) != len(other.eqns):
        return False
    names: dict[Any, Any] = {}

    def define(these, those) -> bool:
        if len(these) != len(those):
            return False
        names.update(zip(these, those, strict=True))
        return all(a.aval == b.aval for a, b in zip(these, those, strict=True))

    def read(these, those) -> bool:
        return len(these) == len(those) and all(map(same_atom, these, those))

    def same_atom(a, b) -> bool:
        if hasattr(a, "val") or hasattr(b, "val"):
            return (
                hasattr(a, "val")
                and hasattr(b, "val")
                and _same(a.val, b.val)
                and (a.aval == b.aval)
            )
        return names.get(a) is b

    def same_equation(a, b) -> bool:
        return (
            a.primitive is b.primitive
            and read(a.invars, b.invars)
            and _same(a.params, b.params)
            and a.effects == b.effects
            and define(a.outvars, b.outvars)
        )

    return (
        define(one.constvars, other.constvars)
        and define(one.invars, other.invars)
        and all(map(same_equation, one.eqns, other.eqns))
        and read(one.outvars, other.outvars)
    )


def _same(a: Any, b: Any) -> bool:
    """Whether two parameters of an equation are equal, or two numbers written in it."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if _is_jaxpr(a):
        closed = hasattr(a, "jaxpr")
        if closed and not (len(a.consts) == len(b.consts) and all(map(_same, a.consts, b.consts))):
            return False
        return alike(a.jaxpr, b.jaxpr) if closed else alike(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, np.ndarray | np.generic | jax.Array):
        first, second = np.asarray(a), np.asarray(b)
        return (
            first.dtype == second.dtype
            and first.tobytes() == second.tobytes()
            and (first.shape == second.shape)
        )
    if callable(a):
        return False
    try:
        return bool(a == b)
    except Exception:  # objects of whoever made the primitive
        return False
