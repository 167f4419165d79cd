"""What the tools hold, CI holds: they run as tests, so that `make test` fails when they do."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("lint-imports",),
        ("mypy",),
    ],
    ids=" ".join,
)
def test_tool_finds_nothing(command):
    """The tool ends with 0; its findings are the failure."""
    program = BIN / command[0]
    if not program.exists():
        pytest.fail(f"{command[0]} is not installed: make install")
    done = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
