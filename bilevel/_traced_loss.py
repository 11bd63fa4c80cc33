"""The inner loss traced once: what it closes over is taken out, and what it uses can be asked."""

import weakref
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer, eval_jaxpr
from jaxtyping import Array

from ._closures import holds_tracers
from ._jaxpr import alike, interpret
from ._mistakes import call
from ._varying import axes_of


def is_jit_disabled() -> bool:
    """Whether losses run as Python, with numbers that it can look at."""
    config: Any = jax.config
    return config.jax_disable_jit


class TracedLoss(eqx.Module):
    """`inner` with the arrays that it closes over as leaves, and without Python code to run."""

    consts: list[Array]
    jaxpr: Any = eqx.field(static=True)
    structure: Any = eqx.field(static=True)
    out: Any = eqx.field(static=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves = jax.tree.leaves(eqx.filter((args, kwargs), eqx.is_array))
        structure, static = self.out
        count, given = len(self.jaxpr.constvars), [*self.consts, *leaves]
        found = eval_jaxpr(self.jaxpr, given[:count], *given[count:])
        return eqx.combine(jax.tree.unflatten(structure, found), static)

    def varying(self, has_aux: bool) -> frozenset[str]:
        """The axes of a `shard_map` over which its value differs, without its aux."""
        outputs = [self.jaxpr.outvars[at] for at in self._of_value(has_aux)]
        return frozenset().union(*(axes_of(out.aval) for out in outputs))

    def _of_value(self, has_aux: bool) -> list[int]:
        structure, _ = self.out
        places = jax.tree.unflatten(structure, range(structure.num_leaves))
        split = has_aux and isinstance(places, tuple)
        return jax.tree.leaves(next(iter(places)) if split else places)

    def uses(self, at: int, has_aux: bool) -> bool:
        """Whether its value depends on an array of the argument number `at`, differentiably."""
        places = jax.tree.unflatten(self.structure, range(self.structure.num_leaves))
        wanted = set(jax.tree.leaves(places[0][at]))
        given = [place in wanted for place in range(self.structure.num_leaves)]
        reached = _reached(self.jaxpr, [False] * len(self.consts) + given)
        return any(reached[at] for at in self._of_value(has_aux))


def trace_loss(inner: Callable[..., Any], form: str, *args: Any, **kwargs: Any) -> TracedLoss:
    """`inner`, called as in `form`, for arguments like these.

    It is traced anew each time, so that it is what the function now does: what it closes over, a
    global or an attribute may have changed. Where it comes to a program that was met before, it
    is that very one, and nothing is compiled again.
    """
    arrays, static = eqx.partition((args, kwargs), eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)
    held: list[Any] = []

    def flat(*leaves):
        args, kwargs = eqx.combine(jax.tree.unflatten(structure, leaves), static)
        out, rest = eqx.partition(call(inner, form, *args, **kwargs), eqx.is_array_like)
        found, out_structure = jax.tree.flatten(out)
        held.append((out_structure, rest))
        return found

    closed = jax.make_jaxpr(flat)(*leaves)
    consts = list(map(jnp.asarray, closed.consts))
    passing = any(isinstance(const, Tracer) for const in consts) or holds_tracers(inner)
    bare: Any = closed.jaxpr
    if hasattr(bare, "with_consts"):  # from jax 0.12 on it holds their values, not to be kept
        bare = bare.with_consts([])
    jaxpr = _known_form_of(bare, [] if passing else _kept(inner))
    return TracedLoss(consts, jaxpr, structure, held[-1])


MOST_KEPT = 8
MOST_FORMS = 256
_FORMS: dict[Any, list] = {}
_KEPT: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_OF_MODULES: dict[int, tuple[Any, dict]] = {}


def _kept(inner: Callable[..., Any]) -> list:
    """The programs that this very function came to before; of a method, those of a module, whose
    fields do not change.
    """
    owner, function = getattr(inner, "__self__", None), getattr(inner, "__func__", None)
    if function is not None:  # a method is made anew each time that it is asked for
        if not isinstance(owner, eqx.Module):
            return []
        place = id(owner)
        gone = weakref.ref(owner, lambda _: _OF_MODULES.pop(place, None))
        return _OF_MODULES.setdefault(place, (gone, {}))[1].setdefault(function, [])
    try:
        return _KEPT.setdefault(inner, [])
    except TypeError:  # one that cannot be referred to weakly, or has no hash
        return []


def traced_now(function: Callable[..., Any], form: str, *args: Any, **kwargs: Any) -> Any:
    """`trace_loss`; the function as it is under a transformation of jax', and without jit."""
    if is_jit_disabled() or holds_tracers(function, args, kwargs):
        return function
    return trace_loss(function, form, *args, **kwargs)


def _known_form_of(jaxpr: Any, kept: list) -> Any:
    """A jaxpr that is the same program and was met before, or this one.

    `kept` are those of the same function: derivative rules in it are the same, though jax wraps
    them anew each time.
    """
    for known in kept:
        if alike(known, jaxpr, rules_too=False):
            return known
    inputs = tuple(var.aval for var in (*jaxpr.constvars, *jaxpr.invars))
    names = tuple(equation.primitive.name for equation in jaxpr.eqns)
    found = _FORMS.setdefault((inputs, names), [])
    for known in found:
        if alike(known, jaxpr):
            jaxpr = known
            break
    else:
        found.append(jaxpr)
    del found[:-MOST_KEPT]
    while len(_FORMS) > MOST_FORMS:
        del _FORMS[next(iter(_FORMS))]
    kept.append(jaxpr)
    del kept[:-MOST_KEPT]
    return jaxpr


def _reached(jaxpr: Any, given: list[bool]) -> list[bool]:
    """Which outputs the `given` ones of the constants and inputs reach; not through
    `stop_gradient`.
    """

    def reach(equation, inputs):
        through = any(inputs) and equation.primitive.name != "stop_gradient"
        return [through] * len(equation.outvars)

    count = len(jaxpr.constvars)
    return interpret(jaxpr, given[:count], given[count:], reach, lambda value: False)
