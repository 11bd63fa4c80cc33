"""Several devices, and several processes, give what one gives, to rounding."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel_distillation import Distillation, EvaluationConfig, RunConfig, run
from bilevel_distillation._config import differences, from_json, to_json
from bilevel_distillation._running._devices import layout, make_mesh, spread

TINY = RunConfig(
    ipc=8,  # 80 images: 10 on each of 8 devices
    iterations=2,
    batch_size=32,
    width=2,
    depth=1,
    ridge_rate=0.1,
    linear_solver="cg",
    cg_max_steps=2,
    pool_size=8,
    pool_steps=2,
    pool_max_steps=3,
    curve_points=1,
    evaluation=EvaluationConfig(repeats=1, steps=2),
)


def prepare(**changes):
    """A tiny distillation whose state and data are in float64."""
    distillation = Distillation(replace(TINY, **changes))

    def doubled(tree):
        wide = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64) if eqx.is_inexact_array(leaf) else leaf, tree
        )
        return spread(distillation.mesh, wide)

    distillation.state = doubled(distillation.whole_state())
    distillation.resident = doubled(distillation.training)
    return distillation


def assert_close(one, other, tolerance):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_eight_devices_give_what_one_gives_and_keep_their_shares(x64):
    one, eight = prepare(), prepare(devices="all")
    layouts = jax.tree.map(lambda leaf: leaf.sharding, eqx.filter(eight.state, eqx.is_array))
    for _ in range(3):
        told, also_told = one.step(), eight.step()
        assert float(also_told.loss) == pytest.approx(float(told.loss), rel=1e-9)
        for leaf, before in zip(
            jax.tree.leaves(eqx.filter(eight.state, eqx.is_array)),
            jax.tree.leaves(layouts),
            strict=True,
        ):
            assert leaf.sharding.is_equivalent_to(before, leaf.ndim)
    assert_close(eight.whole_state(), one.state, 1e-8)
    for split in (eight.state.coreset.images, eight.state.averaged.labels, eight.state.pool.ages):
        shares = [shard.data.shape[0] for shard in split.addressable_shards]
        assert shares == [split.shape[0] // 8] * 8


def test_what_does_not_come_out_even_is_whole_on_each_device(x64):
    one, three = prepare(pool_size=3), prepare(pool_size=3, devices=3)
    one.step(), three.step()
    assert three.state.pool.ages.sharding.spec[0] == "devices"
    assert three.state.coreset.images.sharding.is_fully_replicated
    assert_close(three.whole_state(), one.state, 1e-8)


@pytest.mark.slow
def test_rates_are_tuned_on_several_devices():
    one = Distillation(replace(TINY, solve="adam", adam_steps=2))
    two = Distillation(replace(TINY, solve="adam", adam_steps=2, devices=2))
    assert float(two.tune().inner) == pytest.approx(float(one.tune().inner), rel=1e-3)


def test_a_run_on_several_devices_goes_on_with_another_number(tmp_path):
    config = replace(TINY, devices=8, out=tmp_path / "run")
    results = run(config)
    assert run(replace(config, devices=1)) == results
    text = to_json(replace(config, devices="all"))
    assert from_json(text, tmp_path).devices == "all"
    assert differences(config, from_json(text, tmp_path)) == []


def test_layouts():
    mesh = make_mesh(4)
    assert layout(mesh, (8, 3)).spec[0] == "devices"
    for whole in ((), (6, 3), (0,)):
        assert layout(mesh, whole).is_fully_replicated
    assert make_mesh(1) is None


def test_more_devices_than_there_are_is_said_before_anything_is_loaded(tmp_path):
    with pytest.raises(ValueError, match="devices=9 is more than there are: give at most 8, or"):
        run(replace(TINY, devices=9, dataset="not there", out=tmp_path / "run"))
    with pytest.raises(ValueError, match="devices=0 is too small"):
        replace(TINY, devices=0)


def start_two(path, *more):
    """Both processes of a run on this machine; the first writes to `path / "process0"`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = [
        "--ipc", "8", "--iterations", "2", "--batch-size", "32", "--width", "2", "--depth", "1",
        "--ridge-rate", "0.1", "--linear-solver", "cg", "--cg-max-steps", "2", "--pool-size", "8",
        "--pool-steps", "2", "--pool-max-steps", "3", "--curve-points", "1",
        "--evaluation.repeats", "1", "--evaluation.steps", "2", *more,
    ]  # fmt: skip
    command = [sys.executable, "-m", "bilevel_distillation", "run", "--devices", "all",
               "--distributed", *config]  # fmt: skip
    processes = []
    for i in range(2):
        own = {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(i),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        }
        processes.append(
            subprocess.Popen(
                [*command, "--out", str(path / f"process{i}")],
                env=os.environ | own,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return processes


def ends(processes):
    """What they have printed and their exit statuses, once they have ended."""
    try:
        said = [process.communicate(timeout=200)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return said, [process.returncode for process in processes]


def agree(path, tolerance):
    with (
        np.load(path / "process0" / "distilled.npz") as found,
        np.load(path / "alone" / "distilled.npz") as expected,
    ):
        for name in ("images", "labels"):
            # As a whole: AdaBelief's first steps are of one size however small a pixel's gradient.
            gap = np.linalg.norm(found[name] - expected[name])
            assert gap <= tolerance * np.linalg.norm(expected[name]), name


def test_two_processes_give_what_one_gives(tmp_path):
    processes = start_two(tmp_path)
    run(replace(TINY, out=tmp_path / "alone"))
    said, codes = ends(processes)
    assert codes == [0, 0], said
    assert "distilled set" in said[0] and "distilled set" not in said[1]
    assert not (tmp_path / "process1").exists()
    agree(tmp_path, 1e-5)
    files = {path.name for path in (tmp_path / "alone").iterdir()}
    assert {path.name for path in (tmp_path / "process0").iterdir()} == files


def test_a_signal_to_one_of_two_processes_stops_both_and_they_go_on(tmp_path):
    more = ("--iterations", "30", "--checkpoint-seconds", "0")
    processes = start_two(tmp_path, *more)
    deadline = time.monotonic() + 200
    while not list((tmp_path / "process0").glob("checkpoints/[0-9]*")):
        assert processes[0].poll() is None and time.monotonic() < deadline, ends(processes)
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    said, codes = ends(processes)
    assert codes == [130, 130], said
    assert "goes on from there" in said[0], said
    assert not (tmp_path / "process0" / "distilled.npz").exists()
    processes = start_two(tmp_path, *more)
    run(replace(TINY, iterations=30, out=tmp_path / "alone"))
    said, codes = ends(processes)
    assert codes == [0, 0], said
    assert "resuming" in said[0], said
    agree(tmp_path, 1e-5)
