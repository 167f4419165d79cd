"""The inventory of events is closed: nothing else is written, everything in it is, and the documentation tells all."""

import ast
import re

import pytest

from service.audit_page import with_events
from tenancy.audit import AUDIT_ACTIONS
from tests.support.paths import ROOT

PACKAGES = ("authn", "authz", "migrations", "service", "tenancy")
INVENTORY = ROOT / "tenancy" / "audit_actions.py"
ACTION = re.compile(r"[a-z]+(_[a-z]+)*\.[a-z]+(_[a-z]+)*\Z")


def sources():
    """Yield every file of the packages but the inventory, parsed."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if path != INVENTORY:
                yield path, ast.parse(path.read_text("utf-8"))


def literals(tree):
    """Return every text that stands in a file, outside of docstrings."""
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_every_event_that_code_makes_is_in_the_inventory():
    """Where an entry is made with its action as text, or as one of two."""
    unknown = []
    for path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "AuditEntry":
                first = node.args[0] if node.args else next(k.value for k in node.keywords if k.arg == "action")
                unknown += [
                    (path.name, text) for text in literals(first) if ACTION.match(text) and text not in AUDIT_ACTIONS
                ]
    assert unknown == []


def test_every_event_of_the_inventory_is_made_somewhere():
    """What nobody writes would be looked for in vain. Some names are put together: `f"tenant.{verb}"`."""
    said = set().union(*(literals(tree) for _, tree in sources()))
    missing = {action for action in AUDIT_ACTIONS if action not in said}
    put_together = {action for action in missing if {f"{action.partition('.')[0]}.", action.partition(".")[2]} <= said}
    assert missing - put_together == set()


@pytest.mark.parametrize("action", sorted(AUDIT_ACTIONS))
def test_an_action_is_named_as_the_others_are(action):
    """`thing.what`, and a sentence that says what happened."""
    assert ACTION.match(action)
    assert AUDIT_ACTIONS[action]
    assert not AUDIT_ACTIONS[action].endswith(".")


def test_the_documentation_tells_every_event():
    """`make docs` writes the table."""
    page = (ROOT / "docs" / "audit.md").read_text("utf-8")
    assert with_events(page) == page, "run `make docs`"
