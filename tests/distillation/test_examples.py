"""The examples of the application run, and do what they say."""

import runpy
from pathlib import Path

import pytest

from bilevel_distillation.data import load

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_distill_cifar_on_real_images(real_data, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("BILEVEL_DATA", str(real_data))
    example = runpy.run_path(str(EXAMPLES / "distill_cifar.py"))
    arguments = example["Arguments"](out=tmp_path / "cifar", minutes=0.02, width=2, networks=1)
    results = example["main"](arguments)
    assert set(results) == {"distilled", "random subset"}
    assert all(len(a) == 1 and 0.05 < a[0] < 0.5 for a in results.values())
    assert (tmp_path / "cifar" / "images.png").read_bytes().startswith(b"\x89PNG")
    assert "meta-iterations in" in capsys.readouterr().out
    assert load("cifar10").image_shape == (32, 32, 3)
