"""No value shows a secret that it holds when it is printed: in a log, in a traceback, in the message of a failed test."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from uuid import UUID

import msgspec
import pytest

from authn.mails import Mail, MailKind
from authn.new_passwords import ChosenPassword
from service.answer_seal import KeptAnswer

SECRET = re.compile(r"(^|_)(token|password|password_hash|secret|(api|platform|tenant)_key)s?$|^key$")
"""Last words of fields that hold what lets somebody in."""

SHOWN = {
    "service.http.authzen_search.WirePage.token": "a place in a list, which grants nothing",
    "service.isolation_objects.Tenant.secret": "a made-up word, by which an answer is recognised",
    "service.isolation_cases.Side.secrets": "the same",
    "service.vault_transit.VaultAddress.key": "what a key is called",
}
"""What is printed all the same, and why that tells nothing."""

HOLDS_TEXT = re.compile(r"(?<!\.)\b(str|bytes)\b")


def _classes() -> Iterator[type]:
    for package in ("authn", "authz", "service", "tenancy"):
        root = importlib.import_module(package)
        for found in pkgutil.walk_packages(root.__path__, f"{package}."):
            if not found.name.endswith("__main__"):
                module = importlib.import_module(found.name)
                yield from (
                    each for each in vars(module).values() if inspect.isclass(each) and each.__module__ == found.name
                )


def _printed(cls: type) -> list[str]:
    """Return the fields that a class's own `repr` shows, as `name: type`."""
    if dataclasses.is_dataclass(cls):
        written_here = inspect.unwrap(cls.__repr__).__code__.co_filename.endswith(".py")
        return [] if written_here else [f"{each.name}: {each.type}" for each in dataclasses.fields(cls) if each.repr]
    if issubclass(cls, msgspec.Struct) and cls.__repr__ is msgspec.Struct.__repr__:
        return [f"{each.name}: {each.type}" for each in msgspec.structs.fields(cls)]
    return []


def test_no_value_prints_a_secret() -> None:
    """A dataclass or struct with such a field leaves it out of its `repr`, by `field(repr=False)` or one of its own."""
    found = {
        f"{cls.__module__}.{cls.__qualname__}.{name}"
        for cls in _classes()
        for name, _, kind in (each.partition(": ") for each in _printed(cls))
        if SECRET.search(name) and HOLDS_TEXT.search(kind)
    }
    assert found == SHOWN.keys()


@pytest.mark.parametrize(
    "value",
    [
        Mail(MailKind.RESET, "alice@acme.example", {"token": "canary"}, UUID(int=1)),
        ChosenPassword("canary"),
        KeptAnswer(201, {}, b"canary"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_carry_a_secret_under_another_name_do_not_print_it(value: object) -> None:
    """A mail carries the token of its link, a kept answer that of a new key."""
    assert "canary" not in repr(value)
