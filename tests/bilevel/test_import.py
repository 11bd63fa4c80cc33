"""Who may know whom, and what an import costs."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import bilevel

SOURCES = sorted(Path(bilevel.__file__).parent.rglob("*.py"))
ALLOWED = {"jax", "numpy", "equinox", "optax", "lineax", "jaxtyping"}
HEAVY = ["datasets", "matplotlib", "sklearn", "pandas", "PIL", "jaxopt", "optimistix"]


def imported(source):
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_sources_import_what_they_may(source):
    roots = {name.split(".")[0] for name in imported(source)}
    adapted = {"optimistix"} if source.name == "_adapters.py" else set()
    assert roots <= ALLOWED | adapted | sys.stdlib_module_names


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_nothing_private_of_the_libraries_is_used(source):
    assert not [name for name in imported(source) if "._" in name]


def test_an_import_is_light():
    program = f"import sys, bilevel; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_every_public_name_has_a_docstring():
    for module in (bilevel, bilevel.solvers, bilevel.inverse_hvp):
        for name in vars(module):
            value = getattr(module, name)
            if not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value)):
                assert value.__doc__, name
