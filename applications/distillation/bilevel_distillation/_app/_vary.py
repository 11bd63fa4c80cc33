"""What varies in a sweep: settings by their names, values as words or of their types."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from .._config import EvaluationConfig, RunConfig


def read_vary(words: Sequence[str]) -> dict[str, list[str]]:
    """Settings and values from words such as `seed=0,1,2`.

    Raises:
        ValueError: a word of another form, or a setting that is named twice.
    """
    vary: dict[str, list[str]] = {}
    for word in words:
        name, equals, values = word.partition("=")
        if not (name and equals and values):
            raise ValueError(f"vary {word!r} names no values: give e.g. seed=0,1,2.")
        if name in vary:
            raise ValueError(f"vary names {name} twice: give all its values at once.")
        vary[name] = values.split(",")
    return vary


def _types() -> dict[str, Any]:
    """Settings that can vary, by their names on the command line."""
    own = get_type_hints(RunConfig, include_extras=True)
    nested = get_type_hints(EvaluationConfig, include_extras=True)
    own = {f.name: own[f.name] for f in fields(RunConfig) if f.name not in ("out", "evaluation")}
    return own | {f"evaluation.{f.name}": nested[f.name] for f in fields(EvaluationConfig)}


def known(name: str) -> str:
    """The setting of that name, in which a hyphen is an underscore."""
    plain = name.replace("-", "_")
    if plain in _types():
        return plain
    near = difflib.get_close_matches(plain, _types(), 1)
    hint = f"did you mean {near[0]!r}?" if near else "`bilevel-distill run --help` lists them."
    raise ValueError(f"vary {name!r} is no setting of a run that can vary: {hint}")


def values_of(name: str, values: Sequence[Any]) -> list[Any]:
    """The values of a setting, each of its type and given once."""
    if isinstance(values, str) or not len(values):
        raise ValueError(f"vary {name}={values!r} is no list of values: give e.g. [0, 1].")
    found = [_read(name, value) for value in values]
    twice = [value for i, value in enumerate(found) if value in found[:i]]
    if twice:
        raise ValueError(f"vary {name} has {twice[0]} twice: give each value once.")
    return found


def _read(name: str, value: Any) -> Any:
    """A value of the setting's type; words are read, others must be of the type already."""
    kinds = list(_kinds(_types()[name]))
    for kind in kinds:
        try:
            return _READERS.get(kind, _one_of(kind))(value)
        except (ValueError, TypeError, KeyError):
            continue
    names = " or ".join(_NAMES.get(kind, str(kind)) for kind in kinds)
    raise ValueError(f"vary {name}={value!r} is not of its type: give {names}.")


def _kinds(hint: Any) -> Iterator[Any]:
    """The types and words that an annotation allows."""
    if get_origin(hint) is Annotated:
        yield from _kinds(get_args(hint)[0])
    elif get_origin(hint) in (Union, UnionType):
        for one in get_args(hint):
            yield from _kinds(one)
    elif get_origin(hint) is Literal:
        yield from get_args(hint)
    else:
        yield hint


def _one_of(word: Any):
    def read(value: Any) -> Any:
        if value != word:
            raise ValueError
        return value

    return read


def _none(value: Any) -> None:
    if value is not None and value != "none":
        raise ValueError


def _bool(value: Any) -> bool:
    return value if isinstance(value, bool) else {"true": True, "false": False}[value]


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str | np.integer):
        raise TypeError
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


_READERS: dict[Any, Any] = {
    NoneType: _none, bool: _bool, int: _int, float: _float, str: _str
}  # fmt: skip
_NAMES = {
    NoneType: "none", bool: "true or false", int: "a whole number", float: "a number", str: "a word"
}  # fmt: skip
