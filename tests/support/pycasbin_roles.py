"""PyCasbin's role managers, freshly filled."""

from collections.abc import Sequence
from typing import Any

from casbin import util
from casbin.rbac.default_role_manager.role_manager import DomainManager, RoleManager

FUNCTIONS = {
    "keyMatch": util.key_match,
    "keyMatch2": util.key_match2,
    "keyMatch3": util.key_match3,
    "keyMatch4": util.key_match4,
    "keyMatch5": util.key_match5,
    "globMatch": util.glob_match,
    "regexMatch": util.regex_match,
}


def role_manager(links: Sequence[tuple[str, ...]], function: str | None) -> Any:
    """Return a manager of links without domain."""
    manager = RoleManager(10)
    if function is not None:
        manager.add_matching_func(FUNCTIONS[function])
    for link in links:
        manager.add_link(*link)
    return manager


def domain_manager(links: Sequence[tuple[str, ...]], roles: str | None, domains: str | None) -> Any:
    """Return a manager of links with domains."""
    manager = DomainManager(10)
    if roles is not None:
        manager.add_matching_func(FUNCTIONS[roles])
    if domains is not None:
        manager.add_domain_matching_func(FUNCTIONS[domains])
    for link in links:
        manager.add_link(*link)
    return manager
