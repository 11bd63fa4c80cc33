"""Runs the worked examples of examples/gallery, and keeps what they print and draw for the site.

python docs/gallery.py [NAME ...]   runs all of them, or some
python docs/gallery.py --check      fails where one has changed since its output was kept
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "examples" / "gallery"
PICTURES = ROOT / "docs" / "pictures" / "gallery"
KEPT = PICTURES / "kept.json"
ORDER = ("penalties", "data_cleaning", "influence", "going_wrong", "implicit_maml", "equilibrium",
         "constraints", "scan", "flax_networks", "photographs", "in_pytorch")  # fmt: skip
PYTHONS = {"in_pytorch": os.environ.get("BILEVEL_TORCH", sys.executable)}
"""Interpreters of those that need another one: PyTorch is there, JAX need not be."""
MARK = "<!-- made from examples/gallery by gallery.py -->"


def on_page_markdown(markdown, page, **_):
    """mkdocs puts the gallery where the page has its mark."""
    return markdown.replace(MARK, gallery()) if page.file.src_uri == "gallery.md" else markdown


def gallery() -> str:
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    names = [name for name in ORDER if name in kept]
    cards = "\n".join(_card(name) for name in names)
    return "\n\n".join(
        [
            f'<div class="gallery" markdown="0">\n{cards}\n</div>',
            *(_whole(n, kept[n]) for n in names),
        ]
    )


def _card(name: str) -> str:
    title, first, _ = _words(name)
    picture = f"pictures/gallery/{name}.png"
    return (
        f'<a href="#{_anchor(title)}"><img src="{picture}" alt="" loading="lazy">'
        f"<strong>{title}</strong>{first}</a>"
    )


def _whole(name: str, kept: dict) -> str:
    title, _, text = _words(name)
    source = (SCRIPTS / f"{name}.py").read_text(encoding="utf-8")
    code = source.split('"""\n', 1)[-1].strip()
    return "\n\n".join(
        [
            f"## {title} {{ #{_anchor(title)} }}",
            text,
            f"![What it draws](pictures/gallery/{name}.png)",
            f"```py\n{code}\n```",
            f"```\n{kept['printed'].rstrip()}\n```",
            f"`python examples/gallery/{name}.py`",
        ]
    )


def _words(name: str) -> tuple[str, str, str]:
    source = (SCRIPTS / f"{name}.py").read_text(encoding="utf-8")
    title, _, text = source.split('"""')[1].strip().partition("\n\n")
    text = " ".join(text.split())
    return title.rstrip("."), text.partition(". ")[0].rstrip(".") + ".", text


def _anchor(title: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in title.lower()).strip("-")


def _sum(name: str) -> str:
    return hashlib.sha256((SCRIPTS / f"{name}.py").read_bytes()).hexdigest()[:16]


def run(names: list[str]) -> None:
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    for name in names:
        began = time.monotonic()
        done = subprocess.run(
            [PYTHONS.get(name, sys.executable), f"{name}.py"],
            cwd=SCRIPTS,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(f"{name}.py failed:\n{done.stderr[-2000:]}")
        kept[name] = {"source": _sum(name), "printed": done.stdout}
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def check() -> None:
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    stale = [name for name in ORDER if kept.get(name, {}).get("source") != _sum(name)]
    if stale:
        sys.exit(f"changed since they were run: {', '.join(stale)}; run python docs/gallery.py")


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        check()
    else:
        run(sys.argv[1:] or list(ORDER))
