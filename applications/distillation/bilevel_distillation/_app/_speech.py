"""What Python says, in the language of the command line: `--resolution 32`, not `resolution=32`."""

import re
from collections.abc import Iterable
from dataclasses import fields
from functools import cache

from .._config import EvaluateConfig, EvaluationConfig, RunConfig

_VALUE = r"(?:'([^']*)'|\"([^\"]*)\"|(\.\.\.)|([\w+./-]*[\w/]))?"
_POSITIONAL = ("path",)


def in_flags(sentence: str, command: str = "") -> str:
    """The sentence as the command line would say it.

    Examples:
        >>> in_flags("ipc=0 is too small: give 1 or more.")
        '--ipc 0 is too small: give 1 or more.'
        >>> in_flags("images are grey: use zca=False, or batch_size.")
        'images are grey: use --no-zca, or --batch-size.'
    """
    if sentence.startswith("vary "):  # whose values are settings, as they stand in the flag
        return f"--{sentence}"
    names = _names(command)
    known = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    assigned = re.compile(rf"(?<![\w'\"./-])({known})={_VALUE}(?![=\w]|,\w)")
    sentence = assigned.sub(_flag, sentence)
    long = "|".join(sorted((re.escape(n) for n in names if re.search(r"[_.]", n)), key=len)[::-1])
    sentence = re.sub(
        rf"(?<![\w'\"./-])({long})(?![\w='\"/]|\.\w)", lambda found: _dashed(found[1]), sentence
    )
    sentence = re.sub(
        rf"(?<=choose another )({known})\b", lambda found: _dashed(found[1]), sentence
    )
    listed = re.compile(rf"(--[\w.-]+(?:,| and| or) )({known})(?![\w='\"/-]|\.\w)")
    while listed.search(sentence):
        sentence = listed.sub(lambda found: found[1] + _dashed(found[2]), sentence)
    leading = re.compile(rf"^({known})(?= (?:(?:is|was|needs|names|standardises)\b|'))")
    return leading.sub(lambda found: _dashed(found[1]), sentence)


@cache
def _names(command: str) -> tuple[str, ...]:
    def of(kinds: Iterable[type]) -> list[str]:
        return [one.name for kind in kinds for one in fields(kind)]

    judge = [one.name for one in fields(EvaluationConfig)]
    own = of([EvaluateConfig]) + judge if command == "evaluate" else of([RunConfig])
    beside = ["vary", "jobs", "cluster", "to", "real_steps", "repeats", "steps", "path"]
    return tuple({*own, *beside, *(f"evaluation.{name}" for name in judge)} - {"evaluation"})


def _dashed(name: str) -> str:
    return "--" + name.replace("_", "-")


def _flag(found: re.Match[str]) -> str:
    name, *values = found.groups()
    value = next((one for one in values if one is not None), None)
    if name in _POSITIONAL:
        return found[0].partition("=")[2]
    if value in ("True", "False"):
        head, dot, tail = name.rpartition(".")
        return _dashed(name) if value == "True" else _dashed(f"{head}{dot}no_{tail}")
    if value is None or value == "...":
        return _dashed(name)
    quoted = not value or " " in value
    return f"{_dashed(name)} {repr(value) if quoted else value}"


_OF_PYTHON = (
    (r"invalid literal for int\(\) with base 10: ('.*?')", r"\1 is no whole number"),
    (r"no type matching INT could be instantiated from \[('.*?')\]", r"\1 is no whole number"),
    (r"no type matching FLOAT could be instantiated from \[('.*?')\]", r"\1 is no number"),
    (r"no type matching (\S+) could be instantiated from \[('.*?')\]", r"\2 is none of \1"),
    (r"'None', |, 'None'", ""),  # of what is open by default, and may not be given
    (r"could not convert string to float: ('.*?')", r"\1 is no number"),
)
"""What tyro and Python say of words that do not fit."""


def out_of_box(text: str, command: str = "") -> str:
    """What tyro says in a box, as one sentence; it names the help of the command."""
    side = "\N{BOX DRAWINGS LIGHT VERTICAL}"
    if side in text:
        lines = [line[1:-1].strip() for line in text.splitlines() if line.startswith(side)]
    else:  # a terminal of few letters: a title, and no frame
        lines = [line.strip() for line in text.splitlines()[1:]]
    parts: list[list[str]] = [[]]
    for line in lines:
        if set(line) <= {"\N{BOX DRAWINGS LIGHT HORIZONTAL}", "-"}:
            parts.append([])
        else:
            parts[-1].append(line)
    said = []
    for part in filter(None, parts):
        one = " ".join(" ".join(part).split()).rstrip(".")
        one = re.sub(r"^Perhaps you meant: (--[\w.-]+).*", r"perhaps you meant \1", one)
        one = (
            re.sub(r"^For full helptext, (?:run|see):? ", "see ", one)
            .replace(" (required)", "")
            .rstrip(".")
        )
        if command and one == "see bilevel-distill --help":
            one = f"see bilevel-distill {command} --help"
        for theirs, ours in _OF_PYTHON:
            one = re.sub(theirs, ours, one)
        if not one.startswith(("Got errors", "Argument helptext", "got errors")):
            said.append(one[:1].lower() + one[1:])
    return "; ".join(said) + "." if said else text.strip()
