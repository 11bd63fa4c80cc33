"""Many runs at once: the product of some settings' values, and one table of what came out."""

import contextlib
import itertools
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import jax
import numpy as np

from .._artifacts import Accuracies, SweepFolder, in_short
from .._config import RunConfig
from .._running import Reporter
from ._run import Interrupted, run
from ._swept import SweepResults, SweptRun
from ._vary import known, values_of
from ._vary import read_vary as read_vary

MOST_MAPS = 30_000
"""Memory maps of a process, beyond which programs compiled for earlier runs are dropped."""

PATIENCE = 60.0
"""Seconds that a run has to save its state in when the process that started it is gone."""

_WATCH = "ends with its parent"
_busy = threading.Event()

Found = Accuracies | str
"""What a run came to: its accuracies, or the sentence that it failed with."""


def sweep(
    config: RunConfig,
    vary: Mapping[str, Sequence[Any]],
    *,
    jobs: int = 1,
    cluster: str | None = None,
    reporter: Reporter | None = None,
) -> SweepResults:
    """Run the product of all values, each in its own folder in `config.out`.

    Folders are named by what varies, such as `ipc=1,seed=0`. Runs that are complete are only read,
    those that were begun go on. A run that fails does not stop the others. `results.json` and
    `results.csv` in `config.out` are written after each run.

    Args:
        config: what does not vary; `out` is the folder of the sweep.
        vary: values by the name of a setting; those of `evaluation` as `evaluation.steps`. Words
            are read as the setting's type.
        jobs: runs at a time, in processes of their own if more than one.
        cluster: the address of a Dask scheduler, such as tcp://host:8786, whose workers take the
            runs; they need `config.out` under the same path. Needs `distributed`, which
            `bilevel-distillation[cluster]` brings.
        reporter: who hears how it goes.

    Returns:
        All runs by their folders, and a row for each setting but the seed with the mean and the
        deviation over seeds.

    Raises:
        ValueError: an unknown setting, or a value that it cannot have, before anything runs;
            another process is at work on this sweep; no cluster at the address.
        Interrupted: a signal asked to stop; call again to go on.
    """
    reporter = reporter or Reporter()
    if jobs < 1:
        raise ValueError(f"jobs={jobs} is too small: give 1 or more.")
    folder = SweepFolder(config.out)
    folder.check_free()
    if not vary:
        raise ValueError("vary is empty: give a setting and its values, e.g. seed=0,1,2.")
    chosen = {known(name): values_of(known(name), values) for name, values in vary.items()}
    if len(chosen) < len(vary):
        raise ValueError(f"vary names a setting twice ({', '.join(vary)}): give all its values at "
                         "once.")  # fmt: skip
    configs = {}
    for values in itertools.product(*chosen.values()):
        varied = dict(zip(chosen, values, strict=True))
        name = ",".join(f"{key}={_folder_name(value)}" for key, value in varied.items())
        configs[name] = varied, _changed(config, varied, config.out / name)
    folder.lock()
    try:
        runs: dict[str, SweptRun] = {}
        wanted = {name: one for name, (_, one) in configs.items()}
        for name, found in _run_all(wanted, jobs, cluster, reporter):
            varied, _ = configs[name]
            if isinstance(found, str):
                reporter.say(f"{name}: {found}")
                runs[name] = SweptRun(varied, error=found)
            else:
                runs[name] = SweptRun(varied, found)
            results = SweepResults({name: runs[name] for name in configs if name in runs})
            folder.keep(results.to_json(), results.table())
        return SweepResults({name: runs[name] for name in configs})
    finally:
        folder.release()


def _folder_name(value: Any) -> str:
    return quote(str(value), safe="+")


def _changed(config: RunConfig, varied: Mapping[str, Any], out: Path) -> RunConfig:
    own = {name: value for name, value in varied.items() if "." not in name}
    nested = {name.partition(".")[2]: v for name, v in varied.items() if "." in name}
    return replace(config, out=out, **own, evaluation=replace(config.evaluation, **nested))


def _run_all(
    configs: Mapping[str, RunConfig], jobs: int, cluster: str | None, reporter: Reporter
) -> Iterator[tuple[str, Found]]:
    """What each run found, as they end."""
    if cluster is None and (jobs == 1 or len(configs) == 1):
        for i, (name, config) in enumerate(configs.items(), 1):
            reporter.say(f"run {i} of {len(configs)}: {name}")
            yield _run_one(name, config, reporter)
            reporter.end()
        return
    elsewhere = _in_processes(configs, jobs) if cluster is None else _on_cluster(configs, cluster)
    reporter.begin("runs", len(configs), 0)
    for name, found in elsewhere:
        failed = isinstance(found, str)
        reporter.advance(1, **({} if failed else {"accuracy": float(np.mean(found.distilled))}))
        yield name, found
    reporter.end()


def _in_processes(configs: Mapping[str, RunConfig], jobs: int) -> Iterator[tuple[str, Found]]:
    from joblib import Parallel, delayed

    with warnings.catch_warnings():
        # What jax has compiled looks like a leak of memory to joblib: it starts a process afresh,
        # and says so.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
        here = os.getpid()
        calls = (delayed(_run_beside_others)(name, one, here) for name, one in configs.items())
        ended: Any = Parallel(jobs, return_as="generator_unordered")(calls)
        yield from ended


def _on_cluster(configs: Mapping[str, RunConfig], address: str) -> Iterator[tuple[str, Found]]:
    """By Dask's own client: joblib's would run everything here if there is but one worker, and
    would wait for ever for a run that its workers do not survive.
    """
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise ValueError(
            f"cluster={address!r} needs the package distributed: install "
            "bilevel-distillation[cluster]."
        ) from error
    try:  # a client that finds nobody would try again for a minute at the end of the program
        parts = urlsplit(address)
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20).close()
        client = Client(address, timeout=20, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cluster={address!r} does not answer ({in_short(error)}): give the address of a Dask "
            "scheduler, e.g. tcp://host:8786."
        ) from error
    with client:
        workers: Any = client.nthreads()
        threads = workers.values()
        if not threads or max(threads) > 1:
            raise ValueError(
                f"cluster={address!r} has {len(threads)} workers with up to "
                f"{max(threads, default=0)} threads: start some, each with --nthreads 1, as a run "
                "needs a process to itself."
            )
        here = os.getcwd()
        futures = {
            client.submit(_run_elsewhere, name, config, here, pure=False): name
            for name, config in configs.items()
        }
        for future in as_completed(futures, loop=client.loop, raise_errors=False):
            if future.status == "finished":
                yield future.result()
            else:
                reason = in_short(future.exception() or ValueError(future.status))
                yield futures[future], reason


def _run_one(name: str, config: RunConfig, reporter: Reporter | None = None) -> tuple[str, Found]:
    before = jax.config.read("jax_enable_x64")
    _forget_programs()
    try:
        return name, run(config, reporter)
    except Interrupted:
        raise
    except (ValueError, OSError) as error:
        return name, str(error)
    except Exception as error:  # the others shall go on
        return name, f"{type(error).__name__}: {error}"
    finally:
        jax.config.update("jax_enable_x64", before)  # a run in float64 leaves it on


def _forget_programs() -> None:
    """Drop what was compiled for earlier runs before Linux runs out of memory maps for the process
    (65,530), which XLA does not survive.
    """
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > MOST_MAPS:
        jax.clear_caches()


def _run_beside_others(name: str, config: RunConfig, parent: int) -> tuple[str, Found]:
    """In a process of its own, which leaves memory of an accelerator to the others, and ends with
    its parent.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if not any(thread.name == _WATCH for thread in threading.enumerate()):
        threading.Thread(target=_end_with, args=(parent,), name=_WATCH, daemon=True).start()
    _busy.set()
    try:
        return _run_one(name, config)
    finally:
        _busy.clear()


def _end_with(parent: int) -> None:
    """Stop this process as a signal would once its parent is gone, so that a run saves its state;
    it is not to wait for more work then.
    """
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    latest = time.monotonic() + PATIENCE
    while _busy.is_set() and time.monotonic() < latest:
        time.sleep(0.1)
    os._exit(1)


def _run_elsewhere(name: str, config: RunConfig, where: str) -> tuple[str, Found]:
    """In a cluster's worker, as from the folder that the sweep was started in."""
    try:
        with contextlib.chdir(where):
            return _run_one(name, config)
    except (Interrupted, OSError) as error:
        return name, str(error)
