"""A run: a distillation in a folder, which resumes where it stopped."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._artifacts import Accuracies, Checkpoints, DistilledSet, RunFolder, Snapshot, moments
from .._config import RunConfig
from .._engine import Distillation, Diverged, Metrics, State, load_parts
from .._judging import Held, hold, hold_watched, judge, judge_random_subsets
from .._running import Quiet, from_first, in_any, is_first, make_mesh
from .._running import Reporter as Reporter
from ..data import PRESETS, check_apart
from ._finish import finish, missing
from ._prepare import prepare
from ._signals import Signals

FLUSH_EVERY = 20

Seen = tuple[Held, Held | None]
"""Test images, and the held-out training images by which a judge selects, if it does."""


class Interrupted(Exception):
    """The run was asked to stop; its state is saved."""


def run(config: RunConfig, reporter: Reporter | None = None) -> Accuracies:
    """Distil a data set: train, evaluate, draw and export, in the folder `config.out`.

    A run that the folder holds goes on from its last checkpoint, to the same bits; one that is
    complete is only read, and what is missing of its pictures, export and page is drawn.

    Of several processes, all of which must call, the first alone writes and reports; to the others
    the folder need not be visible.

    Returns:
        Test accuracies of networks trained on the distilled set and on random subsets of the same
        size.

    Raises:
        ValueError: settings or data that cannot work, before anything is computed; another process
            is at work on this run; a file of it is damaged.
        OSError: a file cannot be read or written.
        Interrupted: a signal asked to stop; call again to go on.
    """
    reporter = reporter if reporter is not None and is_first() else Quiet()
    if config.float64:
        jax.config.update("jax_enable_x64", True)
    folder = RunFolder(config.out)
    try:
        return _run(config, folder, reporter)
    finally:
        folder.release()


def _run(config: RunConfig, folder: RunFolder, reporter: Reporter) -> Accuracies:
    if config.dataset not in ("digits", *PRESETS):
        check_apart(config.dataset, config.out)
    make_mesh(config.devices)  # refuses more than there are, before data are loaded
    preprocessor, (data, apart) = from_first(folder.open), load_parts(config)
    if preprocessor is not None and preprocessor.image_shape != data.image_shape:
        preprocessor = None  # of other settings or data, which is said below
    begun = from_first(folder.read_beginning)
    distillation = Distillation(config, data, preprocessor, beginning=begun)

    def claim() -> tuple[DistilledSet | None, Accuracies | None]:
        folder.check_free()
        folder.lock()
        if not folder.claim(distillation.config, distillation.completed):
            return None, None
        distilled = folder.sound(folder.distilled, folder.read_distilled)
        return distilled, folder.sound(folder.results, folder.read_results)

    distilled, results = from_first(claim)
    if distilled is None or results is None:
        from_first(lambda: folder.keep_data(data.fingerprint()))
    if is_first():
        folder.keep_preprocessor(distillation.preprocessor)
        folder.keep_beginning(distillation.beginning)
    if distilled is not None and results is not None:
        if is_first():
            _complete(folder, distilled, results, reporter)
        return results
    _say_of_mirrors(config, distillation, reporter)
    fitted = distillation.preprocessor
    held = hold(distillation.data, fitted)
    watched = hold_watched(distillation.config, distillation.data, apart, fitted)
    if distilled is None:
        _distil(distillation, (held, watched), folder, reporter, is_judged=results is not None)
        distilled = distillation.distilled()
        if is_first():
            folder.keep_distilled(distilled)
    if results is None:
        results = _judge(distillation, held, watched, distilled, reporter)

    def end() -> Accuracies:
        folder.keep_results(results)
        _say_if_loose(distillation.config, folder, reporter)
        drawn = (folder.images, folder.curve, folder.dataset, folder.report)
        finish(folder, distilled, results, [path.name for path in drawn], reporter)
        return results

    return from_first(end)


def _say_of_mirrors(config: RunConfig, distillation: Distillation, reporter: Reporter) -> None:
    in_colour = distillation.data.image_shape[2] == 3
    is_open = config.flip is None and distillation.beginning is None
    if is_open and in_colour and config.dataset not in PRESETS:
        reporter.say(
            "mirror images are not used, because nothing tells whether these images may be "
            "mirrored: --flip uses them."
        )


def _complete(
    folder: RunFolder, distilled: DistilledSet, results: Accuracies, reporter: Reporter
) -> None:
    reporter.say(f"{folder.path} holds this run, complete.")
    finish(folder, distilled, results, missing(folder), reporter)


def _distil(
    distillation: Distillation,
    held: Seen,
    folder: RunFolder,
    reporter: Reporter,
    is_judged: bool,
) -> None:
    checkpoints = Checkpoints(folder.checkpoints) if is_first() else None
    try:
        restored = _restore(distillation, checkpoints)
        if is_judged and (0 if restored is None else restored[0]) < distillation.total:
            raise ValueError(
                f"{str(folder.distilled)!r} is lost, and no checkpoint of the last iteration is "
                "left to make it from: restore it, or move results.json away to distil anew."
            )
        prepare(distillation, folder, reporter)
        if restored is None:
            if checkpoints is not None:
                folder.begin_anew(keep=checkpoints.lost)
            _start(distillation, held, folder, reporter)
        else:
            distillation.restore(*restored)
            if is_first():
                folder.cut_metrics(distillation.iteration)
                folder.history.cut(distillation.iteration)
            reporter.say(f"resuming {folder.path} after iteration {distillation.iteration}.")
        _iterate(distillation, held, folder, checkpoints, reporter)
    finally:
        if checkpoints is not None:
            checkpoints.close()


def _restore(
    distillation: Distillation, checkpoints: Checkpoints | None
) -> tuple[int, State, dict[str, Any]] | None:
    """What the first process reads, in all of them."""
    template = distillation.whole_state()
    arrays, static = eqx.partition(template, eqx.is_array)

    def read():
        assert checkpoints is not None
        found = checkpoints.restore(template)
        if found is None:
            return None
        iteration, state, notes = found
        kept = eqx.filter(state, jax.tree.map(eqx.is_array, template))
        return iteration, jax.tree.leaves(kept), notes

    found = from_first(read)
    if found is None:
        return None
    iteration, leaves, notes = found
    arrays = jax.tree.unflatten(jax.tree.structure(arrays), map(jnp.asarray, leaves))
    return iteration, eqx.combine(arrays, static), notes


def _say_if_loose(config: RunConfig, folder: RunFolder, reporter: Reporter) -> None:
    """Tell where the adjoint was not solved to what was asked for."""
    if config.solve != "linear":
        return
    try:
        records = folder.read_metrics()
    except (ValueError, OSError) as error:
        return reporter.warn(str(error))
    for name, setting, slack in (
        ("adjoint_error", "rtol", 1.5),
        ("adjoint_residual", "adjoint_rtol", 2),
    ):
        asked = getattr(config, setting)
        found = [record[name] for record in records if name in record]
        typical = float(np.median(found[-100:])) if found else 0.0
        if typical > slack * asked:
            advice = "" if name == "adjoint_error" else (
                ", or mind that this method's inner problem is not convex")  # fmt: skip
            reporter.say(
                f"the adjoint's relative {name[8:]} was {typical:.1g} of late, above "
                f"{setting}={asked:g}, so its gradients are rough: raise "
                f"--cg-max-steps (now {config.cg_max_steps}){advice}."
            )


def _start(distillation, held, folder: RunFolder, reporter: Reporter) -> None:
    if distillation.recipe.has_rates:
        reporter.say("tuning the learning rates of the inner problem and the adjoint.")
        rates = distillation.tune()
        reporter.say(f"rates: inner {rates.inner:.3g}, adjoint {rates.adjoint:.3g}.")
    reporter.begin("judging the start", 1, 0)
    _measure(distillation, held, folder)
    reporter.advance(1)
    reporter.end()
    _keep_snapshot(distillation, folder)


def _iterate(
    distillation: Distillation,
    held: Seen,
    folder: RunFolder,
    checkpoints: Checkpoints | None,
    reporter: Reporter,
) -> None:
    config, total = distillation.config, distillation.total
    measure_every = max(1, total // config.curve_points)
    snapshots = moments(total, config.curve_points)
    pending: list[tuple[int, float, Metrics]] = []
    last_saved = time.monotonic()
    first, seconds = distillation.iteration, distillation.seconds
    reporter.begin("distilling", total, distillation.iteration)
    with Signals() as signals:
        while distillation.iteration < total:
            metrics = _unless_diverged(distillation.step, pending, folder, reporter)
            iteration = distillation.iteration
            pending.append((iteration, distillation.seconds, metrics))
            due = time.monotonic() - last_saved >= config.checkpoint_seconds
            caught, due = in_any(signals.caught, due)
            stop = caught or iteration == total
            save = stop or due
            if save or len(pending) >= FLUSH_EVERY:
                _flush(pending, folder, reporter, sync=save)
                pending = []
            if iteration == first + 2:
                _say_if_long(distillation, seconds, reporter)
            seconds = distillation.seconds
            if save or iteration % measure_every == 0 or iteration in snapshots:
                _unless_diverged(distillation.check, pending, folder, reporter)
            if iteration % measure_every == 0 and iteration < total:
                _measure(distillation, held, folder)
            if iteration in snapshots:
                _keep_snapshot(distillation, folder)
            if save:
                state, notes = distillation.whole_state(), distillation.notes()
                if checkpoints is not None:
                    checkpoints.save(iteration, state, notes)
                last_saved = time.monotonic()
            if stop:
                break
    reporter.end()
    if distillation.iteration < total:
        raise Interrupted(
            f"stopped after iteration {distillation.iteration}; "
            "the same command goes on from there."
        )


def _unless_diverged(do: Callable[[], Any], pending, folder: RunFolder, reporter: Reporter) -> Any:
    """What `do` gives; where the run diverged, the metrics until then are kept."""
    try:
        return do()
    except Diverged:
        if pending:
            _flush(pending, folder, reporter, sync=True)
        raise


def _say_if_long(distillation: Distillation, before: float, reporter: Reporter) -> None:
    """Judged by the time of the second meta-iteration, which compiles nothing."""
    from .._engine import advise

    left = distillation.total - distillation.iteration
    advice = advise(distillation, distillation.seconds - before, left)
    if advice is not None:
        reporter.say(f"{advice}.")


def _flush(pending, folder: RunFolder, reporter: Reporter, sync: bool) -> None:
    records = []
    for iteration, seconds, metrics in pending:
        values = {name: float(value) for name, value in metrics.values.items()}
        finite = {name: value for name, value in values.items() if np.isfinite(value)}
        records.append({"iteration": iteration, "seconds": round(seconds, 3)} | finite)
    if is_first():
        folder.append_metrics(records, sync)
    last = records[-1]
    shown = {name: last[name] for name in ("loss", "accuracy") if name in last}
    reporter.advance(len(records), **shown)


def _measure(distillation: Distillation, held: Seen, folder: RunFolder) -> None:
    """One network trained on the current average, for the learning curve."""
    config = distillation.config
    one = replace(config, evaluation=replace(config.evaluation, repeats=1))
    (accuracy,) = judge(
        one, held[0], distillation.distilled(), seed=distillation.iteration, watched=held[1]
    )
    record = {"iteration": distillation.iteration, "seconds": round(distillation.seconds, 3)}
    if is_first():
        folder.append_metrics([record | {"test_accuracy": accuracy}])


def _keep_snapshot(distillation: Distillation, folder: RunFolder) -> None:
    distilled = distillation.distilled()
    if is_first():
        folder.history.keep(Snapshot.of(distilled, distillation.iteration))


def _judge(
    distillation: Distillation,
    held: Held,
    watched: Held | None,
    distilled: DistilledSet,
    reporter: Reporter,
) -> Accuracies:
    config, data = distillation.config, distillation.data
    reporter.begin("evaluating", config.evaluation.repeats, 0)

    def done(accuracy: float) -> None:
        reporter.advance(1, accuracy=accuracy)

    accuracies = judge(config, held, distilled, done=done, watched=watched)
    reporter.end()
    reporter.begin("the baseline, random images", config.evaluation.repeats, 0)
    of_subsets = judge_random_subsets(config, data, held, distilled, done=done, watched=watched)
    reporter.end()
    return Accuracies(tuple(accuracies), tuple(of_subsets))
