"""Every public name is on the site, and the Python of its pages runs and prints what they say."""

import ast
import re
import runpy
import textwrap
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import jax
import pytest

import bilevel

DOCS = Path(__file__).parents[2] / "docs"
QUICK = ["index.md", "stopping.md", "../README.md"]  # which has all of ../PACKAGE.md
SLOW = ["choosing.md", "problems.md", "coming-from.md"]
# Code of other libraries is fenced as `py`, which looks the same on the site and is not run.
BLOCK = re.compile(r"^( *)```(python|text)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "module", ["bilevel", "bilevel.problems", "bilevel.solvers", "bilevel.inverse_hvp"]
)
def test_every_public_name_is_in_the_reference(module):
    pages = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    shown = set(re.findall(r"^::: (\S+)$", pages, re.MULTILINE))
    package = bilevel if module == "bilevel" else getattr(bilevel, module.split(".")[1])
    public = {
        f"{module}.{name}"
        for name, value in ((name, getattr(package, name)) for name in dir(package))
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public and public <= shown, f"not in docs/api: {sorted(public - shown)}"
    old = {name for name in shown if name.rpartition(".")[0] == module} - public
    assert not old, f"in docs/api, but no longer public: {sorted(old)}"


def test_every_page_is_reachable():
    nav = (DOCS.parent / "mkdocs.yml").read_text()
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert pages == set(re.findall(r"[\w/-]+\.md", nav))


def test_the_tests_that_the_table_of_complaints_names_are_there():
    named = set(re.findall(r"`(test_\w+\.py)((?:::\w+)+)`", (DOCS / "complaints.md").read_text()))
    assert len(named) >= 15
    for file, path in named:
        scope = ast.parse((Path(__file__).parent / file).read_text())
        for name in path.split("::")[1:]:
            found = [part for part in scope.body if getattr(part, "name", None) == name]
            assert found, f"docs/complaints.md names {file}{path}, which is not there"
            scope = found[0]


def blocks(page):
    """The kind and the text of each block of Python, or of what Python printed."""
    found = BLOCK.findall((DOCS / page).read_text())
    return [(kind, textwrap.dedent(text)) for _, kind, text in found]


def missing(code):
    """What a block imports that is not installed, or that takes minutes."""
    roots = [
        name.split(".")[0]
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [node.names[0].name])
    ]
    peers = ("jaxopt", "optimistix")
    return [
        name
        for name in roots
        if name == "bilevel_distillation" or (name in peers and find_spec(name) is None)
    ]


@pytest.fixture
def as_a_user(monkeypatch):
    """jax's usual promotions; jaxopt imported, which warns that it is not maintained."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if find_spec("jaxopt"):
            import jaxopt  # noqa: F401
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize(
    "page",
    [
        "index.md",
        "stopping.md",
        "../README.md",
        *(pytest.param(page, marks=pytest.mark.slow) for page in SLOW),
    ],
)
def test_the_python_of_a_page_runs(page, as_a_user, capsys):
    names, printed = {}, ""
    for kind, text in blocks(page):
        if kind == "text":
            assert words(text) in words(printed), text
        elif not missing(text):
            exec(compile(text, page, "exec"), names)
            printed = capsys.readouterr().out
    assert names


def words(text):
    """Without numbers, which differ from machine to machine."""
    return re.sub(r"[+-]?\d[\d.e+-]*", "0", " ".join(text.split()))


def test_every_sentence_of_the_packages_has_an_answer():
    names = runpy.run_path(str(DOCS / "answers.py"))
    assert set(names["RESULTS"]) == {name for name, _ in names["strings_of"](
        names["TOOLKIT"] / "_result.py", "Result"
    )}  # fmt: skip
    answers = names["answers"]()
    assert answers.count("\n### ") > 200
    for words in ("leaves no step to take", "is a class", "The Hessian of the inner loss has a"):
        assert re.search(rf"^### .*{words}", answers, re.MULTILINE), words
    assert names["MARK"] in (DOCS / "answers.md").read_text()


def test_the_page_of_the_distribution_says_what_the_readme_says():
    readme, package = (BLOCK.findall((DOCS / page).read_text()) for page in
                       ("../README.md", "../PACKAGE.md"))  # fmt: skip
    assert package and all(block in readme for block in package)
    for page in ("../PACKAGE.md", "../applications/distillation/README.md"):
        links = re.findall(r"\]\(([^)]+)\)", (DOCS / page).read_text())
        assert not [link for link in links if "://" not in link], "it breaks on an index"
