"""Chance comes from the system, digests are strong, and what is secret is compared in constant time."""

import ast
import re
from collections.abc import Iterator
from typing import get_args

import pytest
from pydantic import BaseModel, SecretStr

from service.settings import PREFIX, Settings, part_models
from tests.support.paths import ROOT

SECRET = re.compile(r"(^|_)(mac|hmac|tag|signature|token|secret|password|hash|hashed|entropy|digest)s?$")
"""Last words of names whose values nobody may find out byte by byte."""

PUBLIC = {
    "service/http/admin_model.py: one.digest == other.digest": "digests of models, which are shown",
    "service/http/admin_policy.py: plan_digest(tenant_id, desired) != asked.digest": "of a plan, which was shown",
    "service/cli/policy_plan.py: current['digest'] != StoredModel.of(directory.model_text).digest": "of models",
    "authn/breached_list.py: digest != last": "of a public list",
    "authn/breached_list.py: found == digest": "of a public list",
    "authz/storage_model.py: current != digest": "of models",
    "authz/storage_model.py: replaces != current.digest": "of models",
    "authz/rule_set_codec.py: found.model.digest != model_digest": "of models, behind a MAC",
    "service/http/pages.py: form['password'] != form['again']": "both are of the one who asks",
    "tenancy/checkpoint_book.py: other.hash != head.hash": "hashes of the audit, which are shown",
    "tenancy/audit_verification.py: hash_of(event) == event.hash": "hashes of the audit",
    "tenancy/audit_verification.py: hash_of(replace(event, seq=other.seq)) == event.hash": "hashes of the audit",
    "tenancy/audit_verification.py: head.last_hash != self._previous": "hashes of the audit",
    "tenancy/kept_answers.py: bytes(found.request_hash) != key.request_hash": "whoever asks knows the request",
}
"""What is compared as other values are, and why that tells nobody anything."""

WEAK = {
    "authn/breached_passwords.py": "sha1 names a password in lists of breaches",
    "service/cli/passwords.py": "the same, to make such a list",
}
SAMPLING = {"service/decision_log.py": "which decisions are logged is no secret"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield path and syntax of everything that runs."""
    for package in ("authn", "authz", "service", "tenancy"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def last_name(node: ast.expr) -> str:
    """Return what a value is called where it is compared."""
    match node:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case ast.Call(func=called):
            return last_name(called)
        case ast.Subscript(slice=ast.Constant(value=str(name))):
            return name
    return ""


def compared(tree: ast.Module) -> Iterator[str]:
    """Yield comparisons with `==` or `!=` of what its name calls secret; with a number, it is about a length."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(one, ast.Eq | ast.NotEq) for one in node.ops):
            values = [node.left, *node.comparators]
            if any(SECRET.search(last_name(value)) for value in values):
                yield ast.unparse(node)


def test_secrets_are_compared_in_constant_time():
    """By `hmac.compare_digest`, or there is a reason; a reason that nothing needs any more goes."""
    found = {f"{path}: {text}" for path, tree in modules() for text in compared(tree)}
    assert found == set(PUBLIC)


@pytest.mark.parametrize("text", ["mac == given", "a.key_hash != b", "'x' == request['token']", "digest() == sent"])
def test_a_careless_comparison_is_seen(text):
    """The check itself is no empty claim."""
    assert list(compared(ast.parse(text)))


def used(tree: ast.Module, library: str) -> set[str]:
    """Return what a module takes from a library, however it imports it."""
    names = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == library
        for alias in node.names
    }
    return names | {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == library
    }


def test_nothing_unguessable_comes_from_a_generator_that_can_be_guessed():
    """`secrets` and `os.urandom` alone; a UUID of version 1 or 4 names something, it opens nothing."""
    assert {path for path, tree in modules() if used(tree, "random")} == set(SAMPLING)
    for path, tree in modules():
        assert used(tree, "uuid") <= {"UUID", "uuid4"}, path


def test_digests_are_of_256_bits_or_more():
    """But where somebody else's format says otherwise; imported hashes name theirs, and are renewed."""
    strong = {"sha256", "sha384", "sha512", "blake2b", "scrypt", "pbkdf2_hmac", "file_digest"}
    weak = {path: names for path, tree in modules() if (names := used(tree, "hashlib") - strong)}
    assert {path for path, names in weak.items() if names == {"sha1"}} == set(WEAK)
    assert {path for path, names in weak.items() if names != {"sha1"}} == {"authn/password_hash_forms.py"}


def secrets_of(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """Yield the environment variables of a settings model whose values are secret."""
    for name, field in model.model_fields.items():
        kinds = {field.annotation, *get_args(field.annotation)}
        if SecretStr in kinds:
            yield f"{prefix}{name.upper()}"


def settings_that_are_secret() -> set[str]:
    """Return those of all parts that can be set."""
    own = set(secrets_of(Settings, PREFIX))
    parts = {name: part for name, part in part_models().items() if issubclass(part, BaseModel)}
    for name, part in parts.items():
        own.update(secrets_of(part, f"{PREFIX}{name.upper()}__"))
    return own - {f"{PREFIX}{path.replace('.', '__').upper()}" for path in Settings.hidden_parts}


def test_every_secret_has_its_place_in_the_inventory():
    """What it is for, where it is, how it is replaced and what is lost with it: docs/operations.md says so."""
    _, _, after = (ROOT / "docs/operations.md").read_text().partition("## All keys and secrets\n")
    inventory = after.partition("\n## ")[0]
    rows = [line.split(" | ")[0] for line in inventory.splitlines() if line.startswith("| ")]
    named = set(re.findall(r"`(KASBAH_\w+)`", " ".join(rows)))
    assert settings_that_are_secret() <= named
    variables = set(re.findall(r"^\| `(KASBAH_\w+)` \|", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE))
    assert named <= variables
