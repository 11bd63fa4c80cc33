"""More memory than there is: refused in a sentence that names what most of it would go to."""

import jax
import numpy as np
import pytest

from bilevel_distillation import RunConfig
from bilevel_distillation._config import resolve
from bilevel_distillation._engine import _needs
from bilevel_distillation._engine._makers import distilling_maker
from bilevel_distillation._engine._needs import check_room
from bilevel_distillation.data import ImageData

only_on_a_cpu = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="an accelerator says itself what does not fit"
)
GIGABYTE = 10**9


def data_of(n, size):
    """Images of two classes, which take no memory themselves."""

    def images(n):
        return np.broadcast_to(np.uint8(0), (n, size, size, 3))

    return ImageData("flat", images(n), np.arange(n) % 2, images(4), np.arange(4) % 2, ("a", "b"))


def check(monkeypatch, there, n=100, size=8, **settings):
    config = RunConfig(**{"width": 4, "depth": 2, "batch_size": 10, "zca": False} | settings)
    data = data_of(n, size)
    config = resolve(config, data.image_shape, data.classes)
    monkeypatch.setattr(_needs, "memory_of_machine", lambda: there)
    check_room(config, data, distilling_maker(config, data.image_shape, data.classes))


CASES = {
    "ipc": (dict(ipc=10**6), "for ipc=1000000: give a smaller --ipc"),
    "batch_size": (
        dict(n=4 * 10**6, batch_size=3 * 10**6),
        "for batch_size=3000000: give a smaller --batch-size",
    ),
    "pool_size": (
        dict(pool_size=10**6),
        "for pool_size=1000000: give a smaller --pool-size",
    ),
    "width": (dict(width=4096), "for width=4096: give a smaller --width"),
    "resolution": (
        dict(n=4000, size=512),
        "for images of 512 x 512 pixels: give a smaller --resolution",
    ),
    "zca": (dict(size=64, zca=True), "for zca=True: use --no-zca"),
}


@only_on_a_cpu
@pytest.mark.parametrize("setting", CASES)
def test_the_setting_that_most_memory_goes_to_is_named(monkeypatch, setting):
    settings, sentence = CASES[setting]
    with pytest.raises(ValueError, match=rf"needs at least \d.* GB of memory, of 1.* {sentence}\."):
        check(monkeypatch, GIGABYTE, **settings)
    check(monkeypatch, 1000 * GIGABYTE, **settings)
    check(monkeypatch, GIGABYTE)


@only_on_a_cpu
def test_the_images_alone_are_counted_once_and_those_to_test_on_as_they_are_held(monkeypatch):
    """Of 400,000 images of 192 bytes nothing else matters by more than a tenth."""
    check(monkeypatch, int(1.1 * 400_000 * 192), n=400_000, pool_size=1)
    with pytest.raises(ValueError, match="images of 8 x 8 pixels"):
        check(monkeypatch, 400_000 * 192, n=400_000, pool_size=1)


def test_an_accelerator_says_itself_what_does_not_fit(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    check(monkeypatch, 1, ipc=10**6)
