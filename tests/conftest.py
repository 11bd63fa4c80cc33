"""What all tests share: keys, float64, the real data, and jax's strict modes."""

import gc
import os
from importlib.metadata import version
from pathlib import Path

# Set before jax is imported; the programs that tests start inherit them.
# Each pytest worker has one core to itself: more threads only get in each other's way. And most of
# the time goes into compiling, which XLA does two to four times as fast if told to do less.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_cpu_multi_thread_eigen=false --xla_backend_optimization_level=0"
    + " --xla_llvm_disable_expensive_passes=true --xla_cpu_parallel_codegen_split_count=1"
)
if version("jaxlib").startswith(("0.10.", "0.11.")):  # XLA ends at once at a flag it does not know
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test needs a network, and a test that tries to use one fails at once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)  # to test sharded arrays

TESTS = Path(__file__).parent
DATA = Path(os.environ.get("BILEVEL_DATA", TESTS.parent.parent / "shared" / "data"))


@pytest.fixture(autouse=True)
def strict_jax(request):
    """No implicit promotion of dtypes or ranks in the toolkit's tests."""
    if not request.path.is_relative_to(TESTS / "bilevel"):
        yield
        return
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Compiled programs hold memory maps, of which Linux gives a process 65,530; at the end of them
    XLA crashes. Until there are many, tests of other files find them again.
    """
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > 12_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def x64():
    """Everything in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def getkey():
    """`getkey()` is a new jax key at each call, the same ones in each run of the test."""
    seeds = iter(range(1_000_000))

    def key():
        return jax.random.key(next(seeds))

    return key


@pytest.fixture(scope="session")
def real_data():
    """The folder with real data sets (mnist, cifar10, ...)."""
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}: set BILEVEL_DATA to the folder that holds it")
    return DATA
