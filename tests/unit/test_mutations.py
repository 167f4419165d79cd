"""The tool that puts faults into the authentication core: which ones, where, and that a test which looks kills them."""

import ast
import subprocess
import sys

import pytest

from tests.support.paths import ROOT
from tools.auth_core import MODULES, TESTS
from tools.mutations import mutants


def changed(source: str) -> list[str]:
    """Return what each mutant of a source says."""
    found = list(mutants(source))
    for mutant in found:
        compile(mutant.tree, "mutant", "exec")
    return [ast.unparse(mutant.tree) for mutant in found]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a < b", ["x = a <= b"]),
        ("x = a is None", ["x = a is not None"]),
        ("x = a and b", ["x = a or b", "x = b", "x = a", "x = not a and b", "x = a and (not b)"]),
        ("x = not a", ["x = a"]),
        ("if a:\n    pass", ["if not a:\n    pass"]),
        ("x = a + 1", ["x = a - 1", "x = a + 2", "x = a + 0"]),
        ("x += a", ["x -= a"]),
        ("x = True", ["x = False"]),
        ("x = 'a'", ["x = 'xa'"]),
        ("f(a)", ["pass"]),
        ("raise WrongError('too short')", ["pass"]),
        ("def f():\n    return a", ["def f():\n    return None"]),
        ("while a:\n    break", ["while not a:\n    break", "while a:\n    continue"]),
        ("'''Words.'''\nimport a\nx: int | None\nUnion = A | B\ny = f'{a}'", []),
    ],
)
def test_each_fault_is_one_slip(source, expected):
    """Annotations, docstrings, aliases of types and the words of errors are no behaviour."""
    assert changed(source) == expected


def test_a_fault_is_known_by_its_function_and_its_lines():
    """The outermost function: what is nested in it comes with its code. Defaults are evaluated outside."""
    source = "class A:\n    @property\n    def f(self, b=1):\n        def g():\n            return (\n                b + c\n            )\n"
    found = {(mutant.what, mutant.function, tuple(sorted(mutant.lines))) for mutant in mutants(source)}
    assert ("1 -> 2", None, (3,)) in found
    assert ("Add -> Sub", ("A.f", 2), (5, 6)) in found
    assert ("return None", ("A.f", 2), (5, 6, 7)) in found


def test_the_core_is_there():
    """A module that was renamed is not left out silently, nor a test."""
    assert [path for path in (*MODULES, *TESTS) if not (ROOT / path).is_file()] == []
    assert len(set(MODULES)) == len(MODULES)
    assert len(set(TESTS)) == len(TESTS)


def test_mutants_are_judged():
    """Of a real module by its real tests, in a process of its own: those outside of functions, too."""
    command = [
        sys.executable,
        "-m",
        "tools.mutants",
        "authn/totp.py",
        "--sample",
        "12",
        "--tests",
        "tests/unit/test_totp.py",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    whole = done.stdout.splitlines()[-1].split()
    assert whole[:2] == ["all", "12"]
    assert float(whole[-2]) >= 85
