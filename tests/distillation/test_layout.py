"""Who imports whom, read from the files: no arrow up, no circle, nothing private of another."""

import ast
import runpy
import sys
from pathlib import Path

import pytest

import bilevel
import bilevel_distillation

TOOLKIT = Path(bilevel.__file__).parent
APPLICATION = Path(bilevel_distillation.__file__).parent
DOCS = Path(__file__).parents[2] / "docs"

BELOW_ARTIFACTS = {"data", "_config", "networks"}
BELOW_ENGINE = BELOW_ARTIFACTS | {"_running", "_problem", "_output_space", "_methods", "_artifacts"}
ALLOWED = {
    "networks": set(),
    "data": set(),
    "_config": {"networks", "data"},
    "_running": {"networks"},
    "_problem": {"_running", "networks"},
    "_output_space": {"_problem", "_running", "networks"},
    "_methods": {"_output_space", "_problem", "_running", "data", "networks"},
    "_artifacts": BELOW_ARTIFACTS - {"networks"},
    "_engine": BELOW_ENGINE,
    "_judging": BELOW_ENGINE - {"_output_space", "_methods"} | {"_engine"},
    "_page": {"_artifacts"} | BELOW_ARTIFACTS - {"networks"},
    "_app": BELOW_ENGINE | {"_engine", "_judging", "_page"},
}
"""Of each package of the application, whom it may import: those that stand below it."""

LIBRARIES = {"jax", "numpy", "equinox", "optax", "lineax", "jaxtyping"}
ADAPTERS = {"jaxopt", "optimistix"}
"""Libraries that the toolkit imports in their adapter alone, when it is used."""


MOST_LINES = 350

OF_FILES = {"open", "fdopen", "rename", "unlink", "read_text", "write_text", "read_bytes",
            "write_bytes"}  # fmt: skip
"""Functions and methods that open files, or name them anew."""

PARSERS = {"json", "csv", "shutil"}
"""Modules whose functions read and write what files hold, or move them."""

NO_FILE_OF_A_RUN = {
    "_config/_json.py calls json.dumps",  # the settings as text, which a folder keeps
    "_config/_json.py calls json.loads",
    "_app/_screen.py calls os.open",  # the null device
    "_app/_sweep.py calls maps.read_text",  # of this process, in /proc
}


def imports(file: Path, root: Path) -> list[tuple[str, ...]]:
    """What a file of the package in `root` imports, function-local imports included, in parts."""
    place = (root.name, *file.relative_to(root).parent.parts)
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [tuple(one.name.split(".")) for one in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = place[: len(place) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            found += [(*base, one.name) for one in node.names]
    return found


def wrongs_of_application(root: Path) -> list[str]:
    """What breaks the rules, a sentence each."""
    found = []
    for file in sorted(root.rglob("*.py")):
        where = file.relative_to(root)
        own = where.parts[0] if len(where.parts) > 1 else None
        if own is not None and own not in ALLOWED:
            found.append(f"{own} is in no list")
            continue
        for module in imports(file, root):
            if module[0] == "bilevel" and any(part.startswith("_") for part in module):
                found.append(f"{where} imports the private {'.'.join(module)}")
            if module[0] != root.name or len(module) < 2 or module[1] == own:
                continue
            other = module[1]
            if other == "engine" and own is None:
                continue
            if own is not None and other not in ALLOWED[own]:
                found.append(f"{where} imports {other}, which stands above it or beside it")
            if other in ALLOWED and not _is_face(root, module):
                found.append(f"{where} imports {'.'.join(module[1:])} past the face of {other}")
    return found


def _is_face(root: Path, module: tuple[str, ...]) -> bool:
    """Whether what is imported is a package itself, or a name that its `__init__.py` gives."""
    if len(module) == 2:
        return True
    file = root / module[1] / f"{module[2]}.py"
    return len(module) == 3 and not file.exists() and not (root / module[1] / module[2]).is_dir()


def wrongs_of_toolkit(root: Path) -> list[str]:
    found = []
    for file in sorted(root.rglob("*.py")):
        for module in imports(file, root):
            library = module[0]
            if library in {root.name, *LIBRARIES} or library in sys.stdlib_module_names:
                continue
            if library not in ADAPTERS or "adapter" not in file.name:
                found.append(f"{file.relative_to(root)} imports {library}")
    return found


def test_packages_of_the_application_import_what_stands_below_them():
    assert wrongs_of_application(APPLICATION) == []


def test_the_list_itself_has_no_circle():
    below: set[str] = set()
    for package, others in ALLOWED.items():  # in an order in which each stands on those before it
        assert others <= below and package not in others
        below.add(package)
    assert set(ALLOWED) == {one.parent.name for one in APPLICATION.glob("*/__init__.py")}


def test_the_picture_of_the_layout_is_that_of_the_imports():
    drawn = runpy.run_path(str(DOCS / "layout.py"))
    assert (DOCS / "pictures" / "layout.svg").read_text() == drawn["draw"](), "run docs/layout.py"


def handling_of_files(root: Path) -> set[str]:
    """Where files are handled outside of `_artifacts`, and of `data`, which only reads."""
    found = set()
    for file in sorted(root.rglob("*.py")):
        where = file.relative_to(root)
        if where.parts[0] in ("_artifacts", "data"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            owner, _, name = called.rpartition(".")
            if owner in PARSERS or called in ("open", "os.replace") or owner and name in OF_FILES:
                found.add(f"{where.as_posix()} calls {called}")
    return found


def test_one_package_alone_handles_the_files_of_a_run():
    assert handling_of_files(APPLICATION) == NO_FILE_OF_A_RUN


@pytest.mark.parametrize(
    "line",
    ["open(path)", "path.write_text('')", "json.load(file)", "os.replace(one, other)",
     "def f():\n    Path('a').open('rb')"],
)  # fmt: skip
def test_a_file_that_is_handled_elsewhere_is_seen(tmp_path, line):
    for package in ("_app", "_artifacts", "data"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "_some.py").write_text(line)
    (found,) = handling_of_files(tmp_path)
    assert found.startswith("_app/_some.py calls ")


def test_the_toolkit_imports_few_libraries():
    assert wrongs_of_toolkit(TOOLKIT) == []


def test_every_file_can_be_read_in_one_sitting():
    long = {file.name: n for file in APPLICATION.rglob("*.py")
            if (n := len(file.read_text().splitlines())) > MOST_LINES}  # fmt: skip
    assert long == {}


@pytest.mark.parametrize(
    ("file", "line", "what"),
    [
        ("data/_sample.py", "from .._config import RunConfig", "stands above"),
        ("_problem/_losses.py", "def f():\n    from .._engine import Recipe", "stands above"),
        ("_page/_plots.py", "if TYPE_CHECKING:\n    from .._app import run", "stands above"),
        ("_app/_run.py", "from .._artifacts._folder import RunFolder", "past the face"),
        ("_app/_run.py", "from .._artifacts import _folder", "past the face"),
        ("_engine/_pool.py", "import bilevel_distillation._judging", "stands above"),
        ("_problem/_losses.py", "from bilevel._operator import Linear", "private"),
        ("_novelty/__init__.py", "", "in no list"),
    ],
)
def test_what_breaks_the_rules_is_seen(tmp_path, file, line, what):
    root = tmp_path / "bilevel_distillation"
    for package in ALLOWED:
        (root / package).mkdir(parents=True)
        (root / package / "__init__.py").touch()
    (root / "_artifacts" / "_folder.py").touch()
    assert wrongs_of_application(root) == []
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text(line)
    (found,) = wrongs_of_application(root)
    assert what in found


@pytest.mark.parametrize(
    ("file", "line", "seen"),
    [
        ("solvers/_adapters.py", "import optimistix", False),
        ("solvers/_base.py", "import optimistix", True),
        ("_minimize.py", "from scipy.optimize import minimize", True),
        ("_minimize.py", "import bilevel_distillation", True),
    ],
)
def test_what_the_toolkit_may_not_import_is_seen(tmp_path, file, line, seen):
    root = tmp_path / "bilevel"
    (root / file).parent.mkdir(parents=True)
    (root / file).write_text(line)
    assert bool(wrongs_of_toolkit(root)) is seen
