"""Which columns the rows of a policy file have: read from the definitions of `model.conf`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

KNOWN_COLUMNS = frozenset({"sub", "dom", "obj", "act", "eft", "cond", "priority"})
OPTIONAL_COLUMNS = frozenset({"eft", "cond"})
DEFAULT_COLUMNS = ("sub", "dom", "obj", "act", "eft", "cond")


@dataclass(frozen=True, slots=True)
class PolicyColumns:
    """Columns of `p` in order, and for each kind of `g` whether its rows name a domain."""

    rule: tuple[str, ...] = DEFAULT_COLUMNS
    links: Mapping[str, bool] = field(default_factory=lambda: {"g": True})

    @property
    def required(self) -> int:
        """How many columns of `p` a row must have: trailing `eft` and `cond` may be left out."""
        count = len(self.rule)
        while count and self.rule[count - 1] in OPTIONAL_COLUMNS:
            count -= 1
        return count


def read_columns(model_text: str) -> PolicyColumns | None:
    """Return the columns that `model.conf` defines, or None when they are not those of a served model.

    This reads the two definitions that say how files look, by the rules of Casbin's own configuration reader. What
    the model means is the compiler's business; lint compares both.
    """
    definitions = _definitions(model_text)
    policy = definitions.get(("policy_definition", "p"))
    if policy is None:
        return None
    rule = tuple(token.strip() for token in policy.split(","))
    if len(set(rule)) != len(rule) or not {"sub", "obj", "act"} <= set(rule) <= KNOWN_COLUMNS:
        return None
    links = {}
    for (section, key), value in definitions.items():
        if section == "role_definition":
            places = len([token for token in value.partition("(")[0].split(",") if token.strip()])
            if places not in (2, 3):
                return None
            links[key] = places == 3  # noqa: PLR2004 - member, role, domain
    return PolicyColumns(rule, links)


def _definitions(text: str) -> dict[tuple[str, str], str]:
    """Return (section, key) -> value; a later definition replaces an earlier one, a backslash joins lines."""
    found: dict[tuple[str, str], str] = {}
    section = ""
    pending = ""
    for raw in [*text.splitlines(), ""]:
        line = raw.strip()
        header = line.startswith("[") and line.endswith("]")
        if line.endswith("\\") and not line.startswith(("#", ";")) and not header:
            pending += line[:-1].strip() + " "
            continue
        if line and not line.startswith(("#", ";")) and not header:
            pending += line
        key, equals, value = pending.partition("=")
        if equals:
            found[section, key.strip()] = value.strip()
        pending = ""
        if header:
            section = line[1:-1]
    return found
