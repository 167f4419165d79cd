"""Every code that a finding can carry is documented, and nothing else is."""

import ast
import re

from tests.support.paths import ROOT

SOURCES = sorted(
    path
    for folder in ("authz/lint", "authz/policy_files")
    for path in (ROOT / folder).glob("*.py")
    if path.name not in {"nearest.py", "prefixes.py"}
)
WORD = re.compile(r"[a-z]+(-[a-z]+)*")
REPORTS = {"at_rule", "at_link", "at_line", "at_entity", "at_place", "report", "_report", "_at", "_fault", "_Refused"}
REPORTS |= {"YamlFault", "Finding"}


def codes_in_source():
    """Literal codes passed to whatever makes findings; defaults of parameters named `code` count."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                names = [argument.arg for argument in node.args.args]
                defaults = zip(names[len(names) - len(node.args.defaults) :], node.args.defaults, strict=True)
                found |= {value.value for name, value in defaults if name == "code"}
            elif isinstance(node, ast.ClassDef):
                found |= {
                    each.value.value
                    for each in node.body
                    if isinstance(each, ast.AnnAssign) and getattr(each.target, "id", "") == "code" and each.value
                }
            elif isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name in REPORTS:
                    values = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "code")]
                    found |= {v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)}
    words = {word for word in found if WORD.fullmatch(word)}
    return words - {"sub", "act", "obj", "eft", "cond", "member", "role", "expires_at", "dom", "action"}


def test_every_code_is_documented():
    """The table of docs/policy-files.md is complete, sorted, and holds no code that nothing reports."""
    table = (ROOT / "docs" / "policy-files.md").read_text().partition("## What lint finds")[2]
    rows = [re.findall(r"`([a-z-]+)`", line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")]
    documented = [code for row in rows for code in row]
    assert documented == sorted(set(documented))
    assert set(documented) == codes_in_source()
