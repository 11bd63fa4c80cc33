"""Draws docs/pictures/layout.svg: the packages of the application, and who stands on whom.

python docs/layout.py          writes it from the imports of the files
python docs/layout.py --check  says with its status whether the picture is that of the files
"""

import ast
import sys
import textwrap
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[1]
APPLICATION = ROOT / "applications" / "distillation" / "bilevel_distillation"
PICTURE = ROOT / "docs" / "pictures" / "layout.svg"

WIDTH, HEIGHT = 218, 74  # of a box
ACROSS, DOWN = 30, 48  # between boxes
MARGIN = 16

STYLE = """
  .box { fill: #f6f8fa; stroke: #57606a; stroke-width: 1.2; }
  .public { fill: #e7effc; stroke: #2563a8; }
  .name { font: 600 15px ui-monospace, monospace; fill: #1f2933; }
  .what { font: 13px system-ui, sans-serif; fill: #4b5563; }
  .arrow { fill: none; stroke: #57606a; stroke-width: 1.4; }
  .head { fill: #57606a; }
  @media (prefers-color-scheme: dark) {
    .box { fill: #22272e; stroke: #8b949e; }
    .public { fill: #1b2a41; stroke: #6ea8fe; }
    .name { fill: #e6edf3; }
    .what { fill: #adbac7; }
    .arrow { stroke: #8b949e; }
    .head { fill: #8b949e; }
  }
"""


def read() -> tuple[dict[str, str], dict[str, set[str]]]:
    """What each package is, by its docstring, and which others it imports."""
    words, imports = {"bilevel": "The toolkit"}, {"bilevel": set()}
    for face in sorted(APPLICATION.glob("*/__init__.py")):
        package = face.parent
        words[package.name], imports[package.name] = _what(package), set()
        for file in package.rglob("*.py"):
            imports[package.name] |= _imported(file)
    for package, others in imports.items():
        imports[package] = {one for one in others if one in words and one != package}
    return words, imports


def _what(package: Path) -> str:
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    return " ".join(text.split("\n\n")[0].split()).split(":")[0].rstrip(".")


def _imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 2:
            found.add((node.module or node.names[0].name).split(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def direct(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """The imports without those that follow from others: what stands below a package it may use."""
    return {
        package: {one for one in others if not any(one in _below(imports, o) for o in others)}
        for package, others in imports.items()
    }


def _below(imports: dict[str, set[str]], package: str) -> set[str]:
    found: set[str] = set()
    for one in imports[package]:
        found |= {one} | _below(imports, one)
    return found


def floors_of(arrows: dict[str, set[str]]) -> dict[str, int]:
    """The floor that each package is on, counted from the ground."""
    floors: dict[str, int] = {}
    while len(floors) < len(arrows):
        for package, others in arrows.items():
            if package not in floors and others <= set(floors):
                floors[package] = 1 + max((floors[one] for one in others), default=-1)
    for package in sorted(floors, key=lambda one: -floors[one]):
        above = [floors[one] for one in arrows if package in arrows[one]]
        if above and arrows[package]:  # what stands on nothing stays on the ground
            floors[package] = min(above) - 1
    return floors


def chains_of(arrows: dict[str, set[str]], floors: dict[str, int]) -> list[list[str]]:
    """Each arrow as a chain with a link on every floor, so that it passes no box."""
    return [
        [package, *(f"{package}>{one}@{at}" for at in range(floor - 1, floors[one], -1)), one]
        for package, floor in floors.items()
        for one in sorted(arrows[package])
    ]


def place(chains: list[list[str]], floors: dict[str, int]) -> dict[str, tuple[float, int]]:
    """The middle of each box and link across, and its floor."""
    floor_of = dict(floors)
    above: dict[str, list[str]] = {}
    for chain in chains:
        for one, other in pairwise(chain):
            floor_of[other] = floor_of[one] - 1 if ">" in other else floors[other]
            above.setdefault(other, []).append(one)
    across: dict[str, float] = {}
    for floor in range(max(floors.values()), -1, -1):
        row = [one for one in floor_of if floor_of[one] == floor]
        row.sort(key=lambda one: one.split(">")[-1].strip("_"))
        for one in row:
            users = [across[user] for user in above.get(one, [])]
            across[one] = sum(users) / len(users) if users else 0.0
        row.sort(key=lambda one: across[one])
        for _ in range(60):  # apart from each other, each as near to where it wants to be
            for left, right in pairwise(row):
                room = (_width(left) + _width(right)) / 2 + ACROSS
                short = room - (across[right] - across[left])
                if short > 0:
                    across[left] -= short / 2
                    across[right] += short / 2
    return {one: (across[one], floor_of[one]) for one in floor_of}


def _width(one: str) -> int:
    return 0 if ">" in one else WIDTH


def draw() -> str:
    words, imports = read()
    arrows = direct(imports)
    floors = floors_of(arrows)
    chains = chains_of(arrows, floors)
    places = place(chains, floors)
    left = min(x - _width(one) / 2 for one, (x, _) in places.items()) - MARGIN
    top = max(floors.values())
    spots = {
        one: (x - left, MARGIN + (top - floor) * (HEIGHT + DOWN))
        for one, (x, floor) in places.items()
    }
    width = max(x + _width(one) / 2 for one, (x, _) in spots.items()) + MARGIN
    height = 2 * MARGIN + (top + 1) * HEIGHT + top * DOWN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img">',
        "<title>The packages of bilevel_distillation, and who imports whom</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path class="head" d="M0 0 8 4 0 8z"/></marker></defs>',
    ]
    for chain in chains:
        path = _path(chain, chains, spots)
        parts.append(f'<path class="arrow" marker-end="url(#head)" d="{path}"/>')
    for package in sorted(arrows):
        x, y = spots[package][0] - WIDTH / 2, spots[package][1]
        kind = "box" if package.startswith("_") else "box public"
        parts.append(
            f'<rect class="{kind}" x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" '
            'rx="7"/>'
        )
        parts.append(f'<text class="name" x="{x + 12:.0f}" y="{y + 23:.0f}">{package}</text>')
        for i, line in enumerate(textwrap.wrap(words[package], 30)[:2]):
            parts.append(
                f'<text class="what" x="{x + 12:.0f}" y="{y + 43 + 17 * i:.0f}">'
                f"{escape(line)}</text>"
            )
    return "\n".join([*parts, "</svg>", ""])


def _path(chain: list[str], chains: list[list[str]], spots: dict[str, tuple[float, float]]) -> str:
    """From the lower edge of the first box, past the links, to the upper edge of the last."""

    def port(box: str, mine: str, others: list[str]) -> float:
        others = sorted(others, key=lambda one: spots[one][0])
        share = (others.index(mine) + 1) / (len(others) + 1)
        return spots[box][0] + WIDTH * (share - 0.5)

    first, last = chain[0], chain[-1]
    x = port(first, chain[1], [one[1] for one in chains if one[0] == first])
    y = spots[first][1] + HEIGHT
    words = [f"M{x:.0f} {y:.0f}"]
    for one in chain[1:]:
        is_box = one == last
        to = spots[one][0]
        if is_box:
            to = port(one, chain[-2], [other[-2] for other in chains if other[-1] == one])
        down, bend = spots[one][1] - (2 if is_box else 0), DOWN * 0.6
        words.append(f"C{x:.0f} {y + bend:.0f} {to:.0f} {down - bend:.0f} {to:.0f} {down:.0f}")
        if not is_box:
            words.append(f"V{down + HEIGHT:.0f}")
        x, y = to, spots[one][1] + HEIGHT
    return " ".join(words)


if __name__ == "__main__":
    picture = draw()
    if "--check" in sys.argv:
        sys.exit(PICTURE.read_text() != picture and "docs/layout.py draws another picture: run it")
    PICTURE.write_text(picture)
