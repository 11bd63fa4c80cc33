"""The README of each distribution, word for word, in clean environments made from dist/.

    make wheels
    python .ci/readmes.py --python python3.11 python3.13 --jax 0.10 0.11

For each Python with each jax: a fresh environment away from the sources, with the wheels of dist/
and what they ask for, in which every command and every block of Python of a README is run as it
stands. What Python prints is compared with what the page says it prints, numbers aside. A command
that is left out is shown, with the reason.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
READMES = {
    "bilevel": ROOT / "PACKAGE.md",
    "bilevel-distillation": ROOT / "applications" / "distillation" / "README.md",
    "repository": ROOT / "README.md",
}
LEFT_OUT = {
    r"^make ": "it wants the sources",
    r"^bilevel-distill .*(cifar10|mnist|photos)": "it wants images that come with neither package",
}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "-- the next block --"


def words(text: str) -> str:
    """Without numbers, which differ from machine to machine."""
    return re.sub(r"[+-]?\d[\d.e+-]*", "0", " ".join(text.split()))


def call(command: list[str], folder: Path, binaries: Path) -> str:
    """What a command prints; its end is the end of all where it fails."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment["PATH"] = f"{binaries}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)[:200]} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    if done.stderr.strip():
        print(f"    says on the side: {done.stderr.strip()[:500]}")
    return done.stdout


def not_for_this_python(version: str, binaries: Path) -> bool:
    command = [str(binaries / "python"), "-m", "pip", "install", "--dry-run", "--no-deps", version]
    done = subprocess.run(command, capture_output=True, text=True)
    return bool(done.returncode) and "require a different python version" in done.stderr


def run_page(page: Path, folder: Path, binaries: Path, left_out: dict[str, str]) -> None:
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    for kind, text in blocks:
        for line in text.splitlines() if kind == "" else ():
            reason = next((why for what, why in left_out.items() if re.search(what, line)), None)
            if reason is not None:
                print(f"    left out, as {reason}: {line}")
                continue
            began = time.monotonic()
            call(["bash", "-c", line], folder, binaries)
            print(f"    {line}  ({time.monotonic() - began:.0f} s)", flush=True)
    code = [text for kind, text in blocks if kind == "python"]
    script = folder / "page.py"
    script.write_text(f"\nprint({MARK!r})\n".join(code), encoding="utf-8")
    began = time.monotonic()
    printed = iter(call(["python", script.name], folder, binaries).split(MARK))
    found = ""
    for kind, text in blocks:
        if kind == "python":
            found = next(printed)
        elif kind == "text" and words(text) not in words(found):
            sys.exit(f"{page.name} says that this is printed:\n{text}\nand it was:\n{found}")
    print(f"    {len(code)} blocks of Python  ({time.monotonic() - began:.0f} s)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="interpreters")
    parser.add_argument("--jax", nargs="+", default=["0.11"], help="versions, such as 0.10")
    parser.add_argument("--readme", nargs="+", choices=READMES, default=list(READMES))
    asked = parser.parse_args()
    wheels = [str(wheel) for wheel in sorted((ROOT / "dist").glob("*.whl"))]
    if len(wheels) != 2:
        sys.exit("dist/ does not hold one wheel of each distribution: make wheels")
    left_out = dict(LEFT_OUT)
    if asked.readme == ["bilevel"]:  # in an environment that holds nothing else
        wheels = wheels[:1]
        left_out["bilevel-distillation"] = "its own README tries it"
    for python in asked.python:
        for jax in asked.jax:
            with tempfile.TemporaryDirectory() as away:
                folder, venv = Path(away), Path(away) / "venv"
                subprocess.run([python, "-m", "venv", str(venv)], check=True)
                binaries = venv / "bin"
                version = f"jax=={jax.removesuffix('.*')}.*"
                if not_for_this_python(version, binaries):
                    print(f"{python} with jax {jax}: left out, as jax has none for this Python")
                    continue
                install = ["python", "-m", "pip", "install", "--quiet"]
                install += ["--disable-pip-version-check", *wheels, version]
                call(install, folder, binaries)
                told = "import sys, jax; print(sys.version.split()[0], 'with jax', jax.__version__)"
                print(f"Python {call(['python', '-c', told], folder, binaries).strip()}")
                for name in asked.readme:
                    print(f"  {READMES[name].relative_to(ROOT)}", flush=True)
                    run_page(READMES[name], folder, binaries, left_out)


if __name__ == "__main__":
    main()
