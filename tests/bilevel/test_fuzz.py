"""A small part of the fuzz: nothing is silently wrong."""

import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"


def test_nothing_is_silently_wrong():
    """Nine problems, all solvers, every other inverse Hessian, in float32.

    In a process of its own, as programs are compiled with settings of their own.
    """
    command = [sys.executable, str(FUZZ), "--quick", "--fresh", "--dtypes", "float32"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert " 0 silently wrong" in ended.stdout
