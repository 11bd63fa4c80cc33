import importlib.metadata
from importlib.metadata import PackageNotFoundError

import pytest

from bilevel_distillation import Distillation, RunConfig
from bilevel_distillation._artifacts import _version


@pytest.mark.parametrize("installed", [True, False])
def test_a_set_says_its_version_from_the_source_tree_too(installed, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    if not installed:
        monkeypatch.setattr(_version, "version", missing)
    config = RunConfig(dataset="digits", width=2, pool_size=1, samples=50)
    found = Distillation(config).distilled().provenance["version"]
    expected = importlib.metadata.version("bilevel-distillation") if installed else "not installed"
    assert found == expected
