"""Walks over what jax has traced: its equations, and its values under another meaning."""

import dataclasses
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from ._closures import contents

JITS = ("jit", "pjit")
RULES = {
    "custom_jvp_call": ("jvp_jaxpr_fun",),
    "custom_vjp_call": ("fwd_jaxpr_thunk", "bwd", "out_trees"),
}
"""The parameters that hold a function's own derivative rule, by primitive."""


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


def alike(one: Any, other: Any, *, rules_too: bool = True) -> bool:
    """Whether two jaxprs are the same program, whatever their variables are called.

    Functions in their parameters (callbacks, derivative rules) must be the same code and close
    over the same, but for derivative rules without `rules_too`; what cannot be compared is not
    alike.
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
                and _same(a.val, b.val, True)
                and (a.aval == b.aval)
            )
        return names.get(a) is b

    def same_params(a, b) -> bool:
        ignored = () if rules_too else RULES.get(a.primitive.name, ())
        return a.params.keys() == b.params.keys() and all(
            name in ignored or _same(value, b.params[name], rules_too)
            for name, value in a.params.items()
        )

    def same_equation(a, b) -> bool:
        return (
            a.primitive is b.primitive
            and read(a.invars, b.invars)
            and same_params(a, b)
            and a.effects == b.effects
            and define(a.outvars, b.outvars)
        )

    return (
        define(one.constvars, other.constvars)
        and define(one.invars, other.invars)
        and all(map(same_equation, one.eqns, other.eqns))
        and read(one.outvars, other.outvars)
    )


def _same(a: Any, b: Any, rules_too: bool) -> bool:
    """Whether two parameters of an equation are equal, or two numbers written in it."""

    def same(a, b):
        return _same(a, b, rules_too)

    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if _is_jaxpr(a):
        closed = hasattr(a, "jaxpr")
        if closed and not same(list(a.consts), list(b.consts)):
            return False
        return alike(*((a.jaxpr, b.jaxpr) if closed else (a, b)), rules_too=rules_too)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Tracer):
        return False
    if isinstance(a, np.ndarray | np.generic | jax.Array):
        first, second = np.asarray(a), np.asarray(b)
        return (
            first.dtype == second.dtype
            and first.tobytes() == second.tobytes()
            and (first.shape == second.shape)
        )
    if callable(a):
        return _same_function(a, b)
    try:
        return bool(a == b)
    except Exception:  # objects of whoever made the primitive
        return False


def _same_function(a: Any, b: Any) -> bool:
    if dataclasses.is_dataclass(a):  # jax' own, around a callback
        fields = [field.name for field in dataclasses.fields(a)]
        return all(_same_held(getattr(a, name), getattr(b, name)) for name in fields)
    if not isinstance(a, types.FunctionType) or a.__code__ is not b.__code__:
        return False
    return (
        a.__globals__ is b.__globals__
        and _same_held(a.__defaults__, b.__defaults__)
        and _same_held(a.__kwdefaults__, b.__kwdefaults__)
        and _same_held(tuple(contents(a)), tuple(contents(b)))
    )


def _same_held(a: Any, b: Any) -> bool:
    """Whether what two functions hold is the same, and remains so."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(_same_held, a, b))
    if isinstance(a, bool | int | float | str | bytes | jax.Array | jax.tree_util.PyTreeDef):
        return _same(a, b, True)
    return callable(a) and _same_function(a, b)
