"""Many runs at once: the product of some settings' values, and one table of what came out."""

import csv
import difflib
import io
import itertools
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from urllib.parse import quote

import jax
import numpy as np

from ._artifacts import write_whole
from ._config import EvaluationConfig, RunConfig
from ._reporter import Reporter
from ._run import Interrupted, run

MOST_MAPS = 30_000
"""Memory maps of a process, beyond which programs compiled for earlier runs are dropped."""

Found = dict[str, Any]
"""Of a run: its accuracies by kind, or `error`, the sentence that it ended with."""


def sweep(
    config: RunConfig,
    vary: Mapping[str, Sequence[Any]],
    *,
    jobs: int = 1,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Run the product of all values, each in its own folder in `config.out`.

    Folders are named by what varies, such as `ipc=1,seed=0`. Runs that are complete are only read,
    those that were begun go on. A run that fails does not stop the others. `results.json` and
    `results.csv` in `config.out` are written after each run.

    Args:
        config: what does not vary; `out` is the folder of the sweep.
        vary: values by the name of a setting; those of `evaluation` as `evaluation.steps`. Words
            are read as the setting's type.
        jobs: runs at a time, in processes of their own if more than one.
        reporter: who hears how it goes.

    Returns:
        `settings`: a row for each setting but the seed, with `seeds`, `failed` (how many runs) and
        the mean and deviation over seeds of `distilled` and `random_subset` (fractions; None where
        no run ended, or for the deviation of one). `runs`: for each folder what varied, and its
        accuracies, or the `error`.

    Raises:
        ValueError: an unknown setting, or a value that it cannot have, before anything runs.
        Interrupted: a signal asked to stop; call again to go on.
    """
    reporter = reporter or Reporter()
    if jobs < 1:
        raise ValueError(f"jobs={jobs} is too small: give 1 or more.")
    if (config.out / "config.json").exists():
        raise ValueError(f"out={str(config.out)!r} holds a run: give another folder to a sweep.")
    if not vary:
        raise ValueError("vary is empty: give a setting and its values, e.g. seed=0,1,2.")
    chosen = {_known(name): _values(_known(name), values) for name, values in vary.items()}
    if len(chosen) < len(vary):
        raise ValueError(f"vary names a setting twice ({', '.join(vary)}): give all its values at "
                         "once.")  # fmt: skip
    configs = {}
    for values in itertools.product(*chosen.values()):
        varied = dict(zip(chosen, values, strict=True))
        name = ",".join(f"{key}={_folder_name(value)}" for key, value in varied.items())
        configs[name] = varied, _changed(config, varied, config.out / name)
    config.out.mkdir(parents=True, exist_ok=True)
    runs: dict[str, Found] = {}
    for name, found in _run_all({name: one for name, (_, one) in configs.items()}, jobs, reporter):
        if "error" in found:
            reporter.say(f"{name}: {found['error']}")
        runs[name] = {"varied": configs[name][0]} | found
        _write(config.out, _gather({name: runs[name] for name in configs if name in runs}))
    return _gather({name: runs[name] for name in configs})


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


def _known(name: str) -> str:
    known = name.replace("-", "_")
    if known in _types():
        return known
    near = difflib.get_close_matches(known, _types(), 1)
    hint = f"did you mean {near[0]!r}?" if near else "`bilevel-distill run --help` lists them."
    raise ValueError(f"vary {name!r} is no setting of a run that can vary: {hint}")


def _values(name: str, values: Sequence[Any]) -> list[Any]:
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


def _folder_name(value: Any) -> str:
    return quote(str(value), safe="+")


def _changed(config: RunConfig, varied: Mapping[str, Any], out: Path) -> RunConfig:
    own = {name: value for name, value in varied.items() if "." not in name}
    nested = {name.partition(".")[2]: v for name, v in varied.items() if "." in name}
    return replace(config, out=out, **own, evaluation=replace(config.evaluation, **nested))


def _run_all(
    configs: Mapping[str, RunConfig], jobs: int, reporter: Reporter
) -> Iterator[tuple[str, Found]]:
    """What each run found, as they end."""
    if jobs == 1 or len(configs) == 1:
        for i, (name, config) in enumerate(configs.items(), 1):
            reporter.say(f"run {i} of {len(configs)}: {name}")
            yield _run_one(name, config, reporter)
            reporter.end()
        return
    from joblib import Parallel, delayed

    calls = (delayed(_run_beside_others)(name, config) for name, config in configs.items())
    reporter.begin("runs", len(configs), 0)
    with warnings.catch_warnings():
        # What jax has compiled looks like a leak of memory to joblib: it starts a process afresh,
        # and says so.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
        ended: Any = Parallel(jobs, return_as="generator_unordered")(calls)
        for name, found in ended:
            done = found.get("distilled")
            reporter.advance(1, **({"accuracy": float(np.mean(done))} if done else {}))
            yield name, found
    reporter.end()


def _run_one(name: str, config: RunConfig, reporter: Reporter | None = None) -> tuple[str, Found]:
    before = jax.config.read("jax_enable_x64")
    _forget_programs()
    try:
        return name, run(config, reporter)
    except Interrupted:
        raise
    except (ValueError, OSError) as error:
        return name, {"error": str(error)}
    except Exception as error:  # the others shall go on
        return name, {"error": f"{type(error).__name__}: {error}"}
    finally:
        jax.config.update("jax_enable_x64", before)  # a run in float64 leaves it on


def _forget_programs() -> None:
    """Drop what was compiled for earlier runs before Linux runs out of memory maps for the process
    (65,530), which XLA does not survive.
    """
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > MOST_MAPS:
        jax.clear_caches()


def _run_beside_others(name: str, config: RunConfig) -> tuple[str, Found]:
    """In a process of its own, which leaves memory of an accelerator to the others."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return _run_one(name, config)


def _gather(runs: Mapping[str, Found]) -> dict[str, Any]:
    """A row for each setting but the seed, and all runs."""
    groups: dict[tuple, list[Found]] = {}
    for one in runs.values():
        setting = tuple((k, v) for k, v in one["varied"].items() if k != "seed")
        groups.setdefault(setting, []).append(one)
    rows = []
    for setting, members in groups.items():
        ended = [one for one in members if "error" not in one]
        row: dict[str, Any] = {"varied": dict(setting), "seeds": len(ended)}
        row["failed"] = len(members) - len(ended)
        for kind in ("distilled", "random_subset"):
            means = [np.mean(one[kind]) for one in ended]
            row[kind] = {
                "mean": float(np.mean(means)) if means else None,
                "deviation": float(np.std(means)) if len(means) > 1 else None,
            }
        rows.append(row)
    return {"settings": rows, "runs": dict(runs)}


def _write(folder: Path, results: Mapping[str, Any]) -> None:
    write_whole(folder / "results.json", json.dumps(results, indent=2) + "\n")
    text = io.StringIO()
    rows = results["settings"]
    names = list(rows[0]["varied"])
    writer = csv.writer(text, lineterminator="\n")
    kinds = [(kind, part) for kind in ("distilled", "random_subset")
             for part in ("mean", "deviation")]  # fmt: skip
    writer.writerow([*names, "seeds", "failed", *(f"{k}_{part}" for k, part in kinds)])
    for row in rows:
        found = [row[kind][part] for kind, part in kinds]
        writer.writerow([*row["varied"].values(), row["seeds"], row["failed"], *found])
    write_whole(folder / "results.csv", text.getvalue())
