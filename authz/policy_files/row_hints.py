"""What to do about a name or a kind of row that cannot be read: the slips that people make most."""

import difflib
from collections.abc import Sequence

_EXAMPLES = {
    "subject": "`user:…`, `role:…`, `user:*`",
    "resource": "`record:…`, `record:*`, `*`",
    "action": "a name such as `read`, or `*`",
    "member": "`user:…`, `role:…`",
    "role": "`role:…`, `group:…`",
    "group": "`folder:…`",
}
_NO_BREAK_SPACES = ("\u00a0", "\u202f", "\u2007")
_ODD_QUOTES = frozenset("“”„‟‘’‚‛«»")  # noqa: RUF001 - what word processors make of quotes


def name_fault(value: str, what: str, message: str) -> tuple[str, str]:
    """Return message and hint for a field that is no good name.

    Args:
        value: The field.
        what: `subject`, `resource`, `action`, `member`, `role`, `group` or `cond`.
        message: What the check of the name said.
    """
    if what == "cond":
        return message, "write it in plain text, on one line or in a quoted field of several"
    example = f"write {_EXAMPLES[what]}"
    if not value:
        return f"the {what} is empty", example
    if "\n" in value:
        return f"the {what} reaches over the end of the line", "close the quote on the line where it was opened"
    if value.startswith(_NO_BREAK_SPACES) or value.endswith(_NO_BREAK_SPACES):
        return message, "a no-break space stands at its end: type a plain blank instead, or none"
    if _ODD_QUOTES.intersection((value[0], value[-1])):
        return message, 'fields are quoted with `"` alone'
    return message, example


def kind_hint(kind: str, known: Sequence[str]) -> str:
    """Return what somebody may have meant who wrote `kind` first in a row, or nothing."""
    if "\t" in kind or ";" in kind[1:]:
        return "fields are separated by commas"
    if kind.startswith(("//", ";", "--", "%", "/*")):
        return "comments start with `#`"
    if kind.lower() in {"ptype", "type", "v0", "kind"}:
        return "policy files have no header: remove the line, or make it a comment with `#`"
    near = difflib.get_close_matches(kind.strip().lower(), known, n=1, cutoff=0.5)
    return f"did you mean `{near[0]}`?" if near else ""
