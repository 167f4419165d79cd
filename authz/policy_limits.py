"""How much one tenant may hold."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PolicyLimits:
    """How many rows of each kind one tenant may have, so that none starves the others."""

    rules: int = 1_000_000
    """Rules of one tenant; those of the base count for the base."""
    links: int = 200_000
    """Links between roles and groups, and groups of resources."""
    memberships: int = 20_000_000
    """Direct roles and groups of subjects."""
    entities: int = 5_000_000
    """Subjects and resources with stored attributes."""
    users: int = 1_000_000
    """Accounts of people; deleted ones do not count."""
