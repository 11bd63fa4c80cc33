"""The answers of docs/answers.md: each sentence that the packages say, as a heading.

They are made from the sources when the site is built, so that they are never those of another
version. A result that has no words of its own here is an error.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MARK = "<!-- made from the sources by answers.py -->"
TOOLKIT = ROOT / "bilevel"
APPLICATION = ROOT / "applications" / "distillation" / "bilevel_distillation"
RAISED = ("ValueError", "RuntimeError", "TypeError", "FileNotFoundError", "ImportError")
OPEN = "\N{HORIZONTAL ELLIPSIS}"

RESULTS = {
    "successful": "It was looked at, and is right to its tolerance: nothing to do.",
    "approximate": "What was asked for: `Identity`, `Nystrom`, a truncated `CG`, damping, or a "
    "number of steps. `h.adjoint.residual` is 0 for an exact adjoint and 1 for none at all; below "
    "0.1 the direction is mostly right.",
    "not_judged": "A plain callable, a stochastic loss, or float32 near its limit: theta may be "
    "right, but nothing has shown it. Read `h.inner.distance` and `h.change`.",
    "max_steps_reached": "`CG(max_steps=256)` is the default. An ill-conditioned Hessian needs "
    "about the square root of its condition number in steps: a weight decay, a preconditioner "
    "(`CG(preconditioner=Nystrom(rank=20))`) or float64 help most.",
    "indefinite": "Most often the inner problem was left at a saddle or on a slope. Solve it "
    "further first: damping makes the solve run, and the gradient is then of another problem.",
    "singular": "Some direction of theta does not matter to the inner loss: a bias that another "
    "cancels, weights that no data reach, a constraint that is there twice. A small weight decay "
    "decides for one solution.",
    "diverged": "A rate above 2 over the largest curvature makes `SGD` and `Neumann` diverge. `CG` "
    "has no rate.",
    "degenerate": "The active set is about to change: left and right of this psi the derivative "
    "is not the same.",
    "no_minimum": "Newton's method on the KKT conditions finds maxima and saddles as well. What it "
    "looks at is the Hessian of the Lagrangian along the constraints that bind.",
    "not_stationary": "The derivative is that of a solution, and theta is none. `h.inner` has the "
    "losses of all steps: still falling means more steps, rising means a smaller rate. `LBFGS()` "
    "and `Newton()` have no rate.",
    "nonfinite": "Typical: a logarithm or a division at 0, a square root whose derivative at 0 is "
    "infinite, a rate that made theta explode. `jax.config.update('jax_debug_nans', True)` shows "
    "where.",
    "no_window": "`start` and the `window` after it must lie within the steps of the solver: "
    "`jax.random.randint(key, (), 0, steps - window + 1)`.",
    "outer_max_steps_reached": "`minimize` was still on its way. What it found so far is the "
    "attribute `minimum` of the error.",
    "no_descent": "Either psi is at the minimum to the precision of the numbers, or the gradient "
    "is not that of the outer loss: random losses, an inner solver that ends elsewhere each time.",
}


def on_page_markdown(markdown, page, **_):
    """mkdocs puts the answers where the page has its mark."""
    return markdown.replace(MARK, answers()) if page.file.src_uri == "answers.md" else markdown


def answers() -> str:
    parts = [
        "## A solve that failed",
        "`Result` says how a solve ended. By default a failure is raised as a `RuntimeError` whose "
        "last line is the sentence; with `throw='ignore'` it stands in `h.inner.result` and "
        "`h.adjoint.result`, and `print(h)` shows it.",
        *results(),
        "## What `check_hypergradient` names as the cause",
        *causes(),
        "## Warnings",
        *told(TOOLKIT, warnings_in),
        "## Arguments of `bilevel`",
        *told(TOOLKIT, errors_in),
        "## Settings, data and files of `bilevel-distill`",
        "On the command line the same sentences speak of flags: `--ipc 0` for `ipc=0`.",
        *told(APPLICATION, errors_in),
    ]
    return "\n\n".join(parts)


def results() -> Iterator[str]:
    for name, sentence in strings_of(TOOLKIT / "_result.py", "Result"):
        yield from entry(sentence, f"`Result.{name}`. {RESULTS[name]}")


def causes() -> Iterator[str]:
    for name, sentence in strings_of(TOOLKIT / "_check.py", "Cause"):
        yield from entry(sentence, f"`Cause.{name}`.")


def strings_of(file: Path, name: str) -> list[tuple[str, str]]:
    (found,) = [
        node
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name == name
    ]
    return [
        (node.targets[0].id, ast.literal_eval(node.value))
        for node in found.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    ]


def told(root: Path, find) -> Iterator[str]:
    seen: dict[str, tuple[str, list[str]]] = {}
    for file in sorted(root.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for call in find(tree):
            sentence = words(call.args[0]) if call.args else None
            if sentence is None or not re.search(r"[a-z]{3,}", sentence):
                continue
            place = str(file.relative_to(ROOT))
            seen.setdefault(sentence, (sentence, []))[1].append(place)
    for sentence, places in seen.values():
        where = ", ".join(f"`{place}`" for place in dict.fromkeys(places))
        yield from entry(sentence, f"From {where}.")


def errors_in(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        call = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") in RAISED:
            yield call


def warnings_in(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "warn":
            yield node


def words(node: ast.AST) -> str | None:
    """The text of a string, with a mark for what is put in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else OPEN for part in node.values
        )
    if isinstance(node, ast.IfExp):
        return words(node.body)
    if isinstance(node, ast.BinOp):
        left, right = words(node.left), words(node.right)
        return None if left is None or right is None else left + right
    return None


def entry(sentence: str, more: str) -> Iterator[str]:
    """A heading of the cause, and below it the remedy."""
    text = " ".join(sentence.split())
    cause, _, remedy = text.partition(": ")
    if not remedy:
        cause, _, remedy = text.partition("; ")
    if not remedy:
        cause, _, remedy = text.partition(". ")
    yield f"### {plain(cause)}"
    said = f"{remedy[:1].upper()}{remedy[1:]} " if remedy else ""
    yield f"{plain(said)}{more}"


def plain(text: str) -> str:
    """Markdown that shows the text as it is; names in backticks stay code."""
    parts = text.split("`")
    shown = [
        part if at % 2 else re.sub(r"([*_<>\[\]{}#|])", r"\\\1", part)
        for at, part in enumerate(parts)
    ]
    return "`".join(shown) if len(parts) % 2 else "".join(shown)
