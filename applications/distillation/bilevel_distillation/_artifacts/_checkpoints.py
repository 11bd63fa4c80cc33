"""Checkpoints of a run: written whole or not at all, checked when read, and never deleted then."""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np

from ._reading import Damaged, guarded, in_short, parse_json, read_bytes, sha256_of
from ._sums import differing
from ._writing import Unwritten, move_aside, unwritten, write_whole, writing

log = logging.getLogger(__name__)
State = TypeVar("State")
_SEAL = "checksums.json"
_EXTRA, _EXTRA_EACH = 200_000, 2_000
"""Bytes of a checkpoint beside its arrays, and beside each of them."""


class Checkpoints:
    """The last checkpoints of a run in a folder, through orbax.

    Attributes:
        lost: whether `restore` found one that is damaged.
    """

    def __init__(self, folder: Path, keep: int = 2):
        import orbax.checkpoint as ocp

        self._ocp, self._folder, self.lost = ocp, folder, False
        self.iterations()  # orbax would not say that a folder cannot be read
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

    def iterations(self) -> list[int]:
        """The iterations that have a checkpoint, the newest first."""
        with guarded(self._folder):
            names = os.listdir(self._folder) if self._folder.exists() else []
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())[::-1]

    def save(self, iteration: int, state: Any, notes: dict[str, Any]) -> None:
        """Write the arrays of `state`, a checksum of them, and JSON-able `notes`.

        Raises:
            OSError: they cannot be written; the checkpoints before are left as they are.
        """
        arrays = _named_arrays(state)
        notes = {**notes, "checksum": _checksum(arrays), "arrays": _described(arrays)}
        save, place = self._ocp.args, self._folder / str(iteration)
        _check_room(place, arrays)
        with _saving(place):
            self._manager.save(
                iteration,
                args=save.Composite(state=save.StandardSave(arrays), notes=save.JsonSave(notes)),
            )
            self._manager.wait_until_finished()
        sums = {name: sha256_of(place / name) for name in _files(place)}
        write_whole(place / _SEAL, json.dumps(sums, indent=2) + "\n")

    def restore(self, template: State) -> tuple[int, State, dict[str, Any]] | None:
        """The newest good checkpoint as (iteration, state, notes); None if there is none.

        One that is proven to be damaged is moved aside and passed over, and the log says so.

        Raises:
            ValueError, OSError: one cannot be read for another reason; all are left as they are.
        """
        iterations = self.iterations()
        for iteration in iterations:
            try:
                return iteration, *self._read(iteration, template)
            except Damaged as error:
                place = move_aside(self._folder / str(iteration), self._folder.parent / "damaged")
                self.lost = True
                log.warning(
                    "the checkpoint of iteration %d is damaged (%s) and now is %s; %s.",
                    iteration,
                    error,
                    place,
                    "there is none before it"
                    if iteration == iterations[-1]
                    else "the one before it is used",
                )
                self._manager.reload()
        return None

    def _read(self, iteration: int, template: State) -> tuple[State, dict[str, Any]]:
        place = self._folder / str(iteration)
        sealed = _check_seal(place)
        load = self._ocp.args
        wanted = _named_arrays(template)
        try:
            found: Any = self._manager.restore(
                iteration, args=load.Composite(notes=load.JsonRestore())
            )
            notes = found.notes
            _check_fit(place, notes, wanted)
            found = self._manager.restore(
                iteration, args=load.Composite(state=load.StandardRestore(wanted))
            )
        except _Unfit:
            raise
        except Exception as error:
            what = "it is whole, so see to that" if sealed else (
                "nothing tells whether it is whole, so see to that or move it away")  # fmt: skip
            raise ValueError(
                f"the checkpoint {str(place)!r} cannot be read ({in_short(error)}): {what}, and "
                "give the same command again."
            ) from error
        if _checksum(found.state) != notes.pop("checksum"):
            raise Damaged("its checksum does not match")
        notes.pop("arrays", None)
        _, static = eqx.partition(template, eqx.is_array)
        leaves = [found.state[name] for name in wanted]
        arrays = jax.tree.unflatten(jax.tree.structure(eqx.filter(template, eqx.is_array)), leaves)
        return eqx.combine(arrays, static), notes

    def close(self) -> None:
        self._manager.close()


class _Unfit(ValueError):
    """A checkpoint of another state."""


def _check_room(place: Path, arrays: dict[str, Any]) -> None:
    """Where the disk is full, orbax's threads write pages of their own, some at the end."""
    size = sum(one.nbytes for one in arrays.values()) + _EXTRA + _EXTRA_EACH * len(arrays)
    with writing(place):
        free = shutil.disk_usage(place.parent).free
    if free < size:
        raise unwritten(place, f"it takes {size / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free")


@contextmanager
def _saving(place: Path) -> Iterator[None]:
    """What stops orbax becomes one sentence."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with writing(place):
            yield
    except Unwritten:
        raise
    except Exception as error:
        # What its threads ran into comes up when they are collected.
        levels = [logging.CRITICAL] * 2
        code = re.search(r"os_error_code='(\d+)'", str(error))
        reason = os.strerror(int(code[1])) if code else in_short(error)
        raise unwritten(place, reason) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _check_seal(place: Path) -> bool:
    """Read every file, so that what cannot be read is told from what is damaged; True if all are
    as they were written, False if nothing tells: the version before left no checksums, and a
    process may have been killed before it did.
    """
    present = [name for name in _files(place) if sha256_of(place / name)]
    if _SEAL not in present:
        return False
    seal = place / _SEAL
    with guarded(seal):
        sums = parse_json(read_bytes(seal))
        name = differing(place, sums)
    if name is not None:
        raise Damaged(f"the checksum of its file {name!r} does not match")
    return True


def _check_fit(place: Path, notes: dict[str, Any], wanted: dict[str, Any]) -> None:
    there, here = notes.get("arrays"), _described(wanted)
    if there is None or there == here:
        return
    pairs = ((there.get(name), here.get(name)) for name in sorted(there.keys() | here.keys()))
    found, asked = next(pair for pair in pairs if pair[0] != pair[1])
    raise _Unfit(
        f"the checkpoint {str(place)!r} holds another state ({found or 'nothing'} where "
        f"{asked or 'nothing'} is needed), as of another version of bilevel-distillation: go on "
        "with that version, or give another --out."
    )


def _files(place: Path) -> list[str]:
    def stop(error: OSError) -> None:
        raise error

    with guarded(place):
        found = [Path(at, name) for at, _, names in os.walk(place, onerror=stop) for name in names]
    return sorted(path.relative_to(place).as_posix() for path in found)


def _named_arrays(state: Any) -> dict[str, Any]:
    leaves = jax.tree.leaves(eqx.filter(state, eqx.is_array))
    if jax.process_count() > 1:  # orbax takes arrays of jax to be those of all processes
        leaves = map(np.asarray, leaves)
    return {f"{i:04d}": leaf for i, leaf in enumerate(leaves)}


def _described(arrays: dict[str, Any]) -> dict[str, str]:
    return {name: f"{one.dtype}{list(one.shape)}" for name, one in arrays.items()}


def _checksum(arrays: dict[str, jax.Array]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
