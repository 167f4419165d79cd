"""Writes the table of events in `docs/audit.md` from the inventory that the audit is held to."""

from pathlib import Path

from tenancy.audit_actions import AUDIT_ACTIONS

PAGE = Path("docs/audit.md")
START = "<!-- Written by `make docs` from tenancy/audit_actions.py. -->\n"
END = "<!-- end -->\n"


def with_events(page: str) -> str:
    """Return the page with its table of events as the inventory has them."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    rows = "".join(f"| `{action}` | {text} |\n" for action, text in sorted(AUDIT_ACTIONS.items()))
    return f"{before}{START}\n| action | what happened |\n| --- | --- |\n{rows}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_events(PAGE.read_text("utf-8")), "utf-8")
