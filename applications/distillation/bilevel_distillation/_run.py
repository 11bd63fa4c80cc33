"""A run: a distillation in a folder, which resumes where it stopped."""

import json
import signal
import time
from dataclasses import replace
from typing import Any

import numpy as np

from ._checkpoints import Checkpoints
from ._config import RunConfig
from ._distillation import Distillation, Held, hold, judge, judge_random_subsets
from ._distilled import DistilledSet
from ._folder import RunFolder, write_whole
from ._meta_step import Metrics

FLUSH_EVERY = 20


class Reporter:
    """Who hears how a run goes: this one says nothing, `ConsoleReporter` shows it."""

    def say(self, message: str) -> None:
        """A message to read."""

    def begin(self, description: str, total: int, done: int) -> None:
        """A stretch of work begins, `done` of its `total` steps already behind it."""

    def advance(self, count: int, **figures: float) -> None:
        """`count` more steps are done; `figures` are what to show of the last one."""

    def end(self) -> None:
        """The stretch of work is over."""


class Interrupted(Exception):
    """The run was asked to stop; its state is saved."""


def run(config: RunConfig, reporter: Reporter | None = None) -> dict[str, Any]:
    """Distil a data set: train, evaluate, draw and export, in the folder `config.out`.

    A run that the folder holds goes on from its last checkpoint, to the same bits; one that is
    complete is only read.

    Returns:
        The results: test accuracies of networks trained on the distilled set (`distilled`) and on
        random subsets of the same size (`random_subset`).

    Raises:
        ValueError: settings or data that cannot work, before anything is computed.
        Interrupted: a signal asked to stop; call again to go on.
    """
    reporter = reporter or Reporter()
    folder = RunFolder(config.out)
    folder.check_free()
    distillation = Distillation(config, preprocessor=folder.read_preprocessor())
    ours = folder.claim(distillation.config)
    if ours and (results := folder.read_results()) is not None:
        reporter.say(f"{folder.path} holds this run, complete.")
        return results
    folder.keep_preprocessor(distillation.preprocessor)
    held = hold(distillation.data, distillation.preprocessor)
    _distil(distillation, held, folder, reporter)
    distilled = distillation.distilled()
    distilled.save_npz(folder.distilled)
    results = _judge(distillation, held, distilled, reporter)
    last = {
        "iteration": distillation.iteration,
        "seconds": round(distillation.seconds, 3),
        "test_accuracy": float(np.mean(results["distilled"])),
        "test_accuracy_std": float(np.std(results["distilled"])),
    }
    _draw_and_export(folder, distilled, last)
    write_whole(folder.results, json.dumps(results, indent=2) + "\n")
    return results


def _distil(distillation: Distillation, held: Held, folder: RunFolder, reporter: Reporter) -> None:
    checkpoints = Checkpoints(folder.checkpoints)
    try:
        restored = checkpoints.restore(distillation.state)
        if restored is None:
            folder.metrics.unlink(missing_ok=True)
            _start(distillation, held, folder, reporter)
        else:
            distillation.restore(*restored)
            folder.cut_metrics(distillation.iteration)
            reporter.say(f"resuming {folder.path} after iteration {distillation.iteration}.")
        _iterate(distillation, held, folder, checkpoints, reporter)
    finally:
        checkpoints.close()
    _say_if_loose(distillation.config, folder, reporter)


def _say_if_loose(config: RunConfig, folder: RunFolder, reporter: Reporter) -> None:
    """Tell where the adjoint was not solved to what was asked for."""
    residuals = [r["adjoint_residual"] for r in folder.read_metrics() if "adjoint_residual" in r]
    if config.solve != "exact" or not residuals:
        return
    typical = float(np.median(residuals[-100:]))
    if typical > 2 * config.rtol:
        reporter.say(
            f"the adjoint's relative residual was {typical:.1g} of late, above rtol={config.rtol:g}"
            f", so its gradients are rough: raise --max-cg-steps (now {config.max_cg_steps})"
            + ("." if config.method in ("rcig", "cig") else ", or mind that this method's inner "
               "problem is not convex.")
        )  # fmt: skip


def _start(distillation, held, folder: RunFolder, reporter: Reporter) -> None:
    if distillation.recipe.has_rates:
        reporter.say("tuning the learning rates of the inner problem and the adjoint.")
        rates = distillation.tune()
        reporter.say(f"rates: inner {rates.inner:.3g}, adjoint {rates.adjoint:.3g}.")
    _measure(distillation, held, folder)


def _iterate(
    distillation: Distillation,
    held: Held,
    folder: RunFolder,
    checkpoints: Checkpoints,
    reporter: Reporter,
) -> None:
    config, total = distillation.config, distillation.total
    measure_every = max(1, total // config.curve_points)
    pending: list[tuple[int, float, Metrics]] = []
    last_saved = time.monotonic()
    reporter.begin("distilling", total, distillation.iteration)
    with _Signals() as signals:
        while distillation.iteration < total:
            metrics = distillation.step()
            iteration = distillation.iteration
            pending.append((iteration, distillation.seconds, metrics))
            stop = signals.caught or iteration == total
            save = stop or time.monotonic() - last_saved >= config.checkpoint_seconds
            if save or len(pending) >= FLUSH_EVERY:
                _flush(pending, folder, reporter)
                pending = []
            if iteration % measure_every == 0 and iteration < total:
                _measure(distillation, held, folder)
            if save:
                checkpoints.save(iteration, distillation.state, distillation.notes())
                last_saved = time.monotonic()
            if stop:
                break
    reporter.end()
    if distillation.iteration < total:
        raise Interrupted(
            f"stopped after iteration {distillation.iteration}; "
            "the same command goes on from there."
        )


def _flush(pending, folder: RunFolder, reporter: Reporter) -> None:
    records = []
    for iteration, seconds, metrics in pending:
        values = {name: float(value) for name, value in vars(metrics).items()}
        finite = {name: value for name, value in values.items() if np.isfinite(value)}
        records.append({"iteration": iteration, "seconds": round(seconds, 3)} | finite)
    folder.append_metrics(records)
    last = records[-1]
    reporter.advance(len(records), loss=last.get("loss", np.nan), accuracy=last["accuracy"])


def _measure(distillation: Distillation, held: Held, folder: RunFolder) -> None:
    """One network trained on the current average, for the learning curve."""
    config = distillation.config
    one = replace(config, evaluation=replace(config.evaluation, networks=1))
    (accuracy,) = judge(one, held, distillation.distilled(), seed=distillation.iteration)
    record = {"iteration": distillation.iteration, "seconds": round(distillation.seconds, 3)}
    folder.append_metrics([record | {"test_accuracy": accuracy}])


class _Signals:
    """Remembers that Ctrl-C or a termination signal came, instead of stopping in mid-step."""

    def __init__(self):
        self.caught = False

    def __enter__(self) -> "_Signals":
        self._before = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._catch)
        except ValueError:  # not the main thread: signals are somebody else's
            pass
        return self

    def _catch(self, number, frame) -> None:
        self.caught = True

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _judge(
    distillation: Distillation, held: Held, distilled: DistilledSet, reporter: Reporter
) -> dict[str, Any]:
    config = distillation.config
    reporter.begin("evaluating", 2 * config.evaluation.networks, 0)

    def done(accuracy: float) -> None:
        reporter.advance(1, accuracy=accuracy)

    results = {
        "distilled": judge(config, held, distilled, done=done),
        "random_subset": judge_random_subsets(
            config, distillation.data, held, distilled, done=done
        ),
    }
    reporter.end()
    return results


def _draw_and_export(folder: RunFolder, distilled: DistilledSet, last: dict[str, Any]) -> None:
    from ._export import export_hf
    from ._pictures import draw_images, draw_learning_curve

    draw_images(distilled, folder.images)
    draw_learning_curve([*folder.read_metrics(), last], folder.curve)
    export_hf(distilled, folder.dataset)
