"""Checkpoints of a run: written whole or not at all, checked when read."""

import hashlib
import logging
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np

log = logging.getLogger(__name__)
State = TypeVar("State")


class Checkpoints:
    """The last checkpoints of a run in a folder, through orbax."""

    def __init__(self, folder: Path, keep: int = 2):
        import orbax.checkpoint as ocp

        self._ocp = ocp
        alone: dict[str, Any] = {}
        if jax.process_count() > 1:  # only this one has the folder
            this = jax.process_index()
            folder.mkdir(parents=True, exist_ok=True)
            alone["create"] = False
            alone["multiprocessing_options"] = ocp.options.MultiprocessingOptions(
                primary_host=this, active_processes={this}, barrier_sync_key_prefix="alone"
            )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=False, **alone
        )
        self._manager = ocp.CheckpointManager(
            folder.absolute(), options=options, item_names=("state", "notes")
        )

    def save(self, iteration: int, state: Any, notes: dict[str, Any]) -> None:
        """Write the arrays of `state`, a checksum of them, and JSON-able `notes`."""
        arrays = _named_arrays(state)
        notes = {**notes, "checksum": _checksum(arrays)}
        save = self._ocp.args
        self._manager.save(
            iteration,
            args=save.Composite(state=save.StandardSave(arrays), notes=save.JsonSave(notes)),
        )
        self._manager.wait_until_finished()

    def restore(self, template: State) -> tuple[int, State, dict[str, Any]] | None:
        """The newest good checkpoint as (iteration, state, notes); None if there is none.

        A damaged one is passed over, and the log says so.
        """
        iterations = sorted(self._manager.all_steps(), reverse=True)
        for iteration in iterations:
            try:
                return iteration, *self._read(iteration, template)
            except Exception as error:
                log.warning(
                    "the checkpoint of iteration %d is damaged (%s); %s.",
                    iteration,
                    str(error).splitlines()[0] if str(error) else type(error).__name__,
                    "there is none before it"
                    if iteration == iterations[-1]
                    else "the one before it is used",
                )
                self._manager.delete(iteration)
        return None

    def _read(self, iteration: int, template: State) -> tuple[State, dict[str, Any]]:
        wanted = _named_arrays(template)
        load = self._ocp.args
        read: Any = self._manager.restore(
            iteration,
            args=load.Composite(state=load.StandardRestore(wanted), notes=load.JsonRestore()),
        )
        if _checksum(read.state) != read.notes.pop("checksum"):
            raise ValueError("its checksum does not match")
        _, static = eqx.partition(template, eqx.is_array)
        leaves = [read.state[name] for name in wanted]
        arrays = jax.tree.unflatten(jax.tree.structure(eqx.filter(template, eqx.is_array)), leaves)
        return eqx.combine(arrays, static), read.notes

    def close(self) -> None:
        self._manager.close()


def _named_arrays(state: Any) -> dict[str, Any]:
    leaves = jax.tree.leaves(eqx.filter(state, eqx.is_array))
    if jax.process_count() > 1:  # orbax takes arrays of jax to be those of all processes
        leaves = map(np.asarray, leaves)
    return {f"{i:04d}": leaf for i, leaf in enumerate(leaves)}


def _checksum(arrays: dict[str, jax.Array]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
