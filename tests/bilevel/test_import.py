"""Who may know whom, and what an import costs."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bilevel

SOURCES = sorted(Path(bilevel.__file__).parent.rglob("*.py"))
ALLOWED = {"jax", "numpy", "equinox", "optax", "lineax", "jaxtyping"}
HEAVY = ["datasets", "matplotlib", "sklearn", "pandas", "PIL", "jaxopt", "optimistix", "lineax"]


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


def test_what_is_imported_late_is_there():
    assert "Lineax" in dir(bilevel.inverse_hvp)
    assert bilevel.inverse_hvp.Lineax.__name__ == "Lineax"
    with pytest.raises(AttributeError, match="no attribute 'Linax'"):
        _ = bilevel.inverse_hvp.Linax


MODULES = (bilevel, bilevel.solvers, bilevel.inverse_hvp)
PUBLIC = {
    name: value
    for module in MODULES
    for name, value in ((name, getattr(module, name)) for name in dir(module))
    if not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value))
}
SETTABLE = (bilevel.solvers.AbstractSolver, bilevel.inverse_hvp.AbstractInverseHVP)


def docstrings_of(value):
    """Its own, those of the classes that it is made of, and those that these refer to."""
    parts = inspect.getmro(value) if inspect.isclass(value) else (value,)
    own = [part.__doc__ or "" for part in parts if part.__module__.startswith("bilevel")]
    named = {name for text in own for name in re.findall(r"`(\w+)`", text)}
    return "\n".join(own + [PUBLIC[name].__doc__ or "" for name in named if name in PUBLIC])


@pytest.mark.parametrize("name", PUBLIC)
def test_a_docstring_begins_with_a_sentence_and_names_every_argument(name):
    value = PUBLIC[name]
    first, *_ = inspect.getdoc(value).split("\n\n")
    assert first.rstrip().endswith((".", ":")), first
    if inspect.isfunction(value) or issubclass(value, SETTABLE):
        arguments = set(inspect.signature(value).parameters) - {"self", "args", "kwargs"}
        assert arguments <= set(re.findall(r"\w+", docstrings_of(value)))
