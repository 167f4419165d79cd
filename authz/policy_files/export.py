"""Rows as the text of policy files, such that reading gives the same rows back. What cannot be written is refused."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from authz.policy_files.columns import PolicyColumns
from authz.policy_files.csv_text import format_record
from authz.policy_files.times import format_time
from authz.policy_files.yaml_text import MAX_DEPTH, MAX_INTEGER
from authz.request import InvalidNameError
from authz.rules import BASE_DOMAIN, BASE_SLUG, MAX_PRIORITY, Effect, EntityKind, RoleLink, Rule, StoredEntity
from authz.served_names import (
    check_condition_text,
    check_name,
    check_pattern,
    check_role,
    check_rule_action,
)

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./@-]*(?::[A-Za-z0-9_./@-]+)*\Z")
_NEVER_PLAIN = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_MAX_SIMPLE_KEY = 900
_ESCAPED = re.compile(
    '[\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff"\\\\]'
)


class UnwritableRowError(ValueError):
    """A row that a policy file cannot say; the message names it and why."""


def write_policy_csv(
    rules: Iterable[Rule], links: Iterable[RoleLink], *, slug: str, columns: PolicyColumns | None = None
) -> str:
    """Return the text of `policy.csv`: rules, then links, in the given order.

    Raises:
        UnwritableRowError: a name that files do not take, or a value without a column in `columns`.
    """
    columns = columns or PolicyColumns()
    domain = BASE_DOMAIN if slug == BASE_SLUG else slug
    lines = [_rule_line(rule, domain, columns) for rule in rules]
    lines.extend(_link_line(link, domain, columns) for link in links)
    return "".join(f"{line}\n" for line in lines)


def write_entities(entities: Iterable[StoredEntity]) -> str:
    """Return the text of `entities.yaml`, subjects first, in the given order.

    Raises:
        UnwritableRowError: a name or an attribute that YAML, JSON or the database cannot hold.
    """
    sections: dict[EntityKind, list[str]] = {kind: [] for kind in EntityKind}
    for entity in entities:
        _check(f"the entity `{entity.ref}`", entity.ref, check_name)
        lines = sections[entity.kind]
        if not entity.properties:
            lines.append(_entry("  ", entity.ref, "{}"))
            continue
        lines.append(_entry("  ", entity.ref, ""))
        lines.extend(_entry("    ", name, _flow(value, 3)) for name, value in entity.properties.items())
    text = ""
    for kind, lines in sections.items():
        if lines:
            text += f"{kind.value}s:\n" + "".join(f"{line}\n" for line in lines)
    return text


def _rule_line(rule: Rule, domain: str, columns: PolicyColumns) -> str:
    name = f"the rule `{rule.subject}, {rule.resource}, {rule.action}`"
    _check(name, rule.subject, check_pattern)
    _check(name, rule.resource, check_pattern)
    _check(name, rule.action, check_rule_action)
    if rule.condition:
        _check(name, rule.condition, check_condition_text)
    missing = {
        "cond": bool(rule.condition),
        "eft": rule.effect is not Effect.ALLOW,
        "priority": rule.priority is not None,
    }
    for column, needed in missing.items():
        if needed and column not in columns.rule:
            raise UnwritableRowError(f"{name} needs the column `{column}`, which model.conf does not define")
    if "priority" in columns.rule and (rule.priority is None or not 0 <= rule.priority <= MAX_PRIORITY):
        raise UnwritableRowError(f"{name} has no priority from 0 to {MAX_PRIORITY}")
    values = {
        "sub": rule.subject,
        "dom": domain,
        "obj": rule.resource,
        "act": rule.action,
        "eft": rule.effect.value,
        "cond": rule.condition or "",
        "priority": str(rule.priority),
    }
    fields = ["p", *(values[column] for column in columns.rule)]
    while len(fields) > columns.required + 1 and not fields[-1]:
        fields.pop()
    return format_record(fields)


def _link_line(link: RoleLink, domain: str, columns: PolicyColumns) -> str:
    name = f"the link `{link.member}` to `{link.role}`"
    if link.kind not in columns.links:
        raise UnwritableRowError(f"{name} is of kind `{link.kind}`, which model.conf does not define")
    _check(name, link.member, check_name)
    _check(name, link.role, check_role if link.kind == "g" else check_name)
    fields = [link.kind, link.member, link.role]
    if columns.links[link.kind]:
        fields.append(domain)
    if link.expires_at is not None:
        fields.append(format_time(link.expires_at))
    return format_record(fields)


def _check(row: str, value: str, check: Callable[[str], None]) -> None:
    try:
        check(value)
    except InvalidNameError as error:
        raise UnwritableRowError(f"{row}: {error}") from error


def _entry(indent: str, key: str, value: str) -> str:
    text = _string(key)
    blank = " " if value else ""
    if len(text) <= _MAX_SIMPLE_KEY:
        return f"{indent}{text}:{blank}{value}"
    return f"{indent}? {text}\n{indent}:{blank}{value}"  # YAML takes a longer key only when it is marked as one


def _flow(value: Any, depth: int) -> str:
    if depth > MAX_DEPTH:
        raise UnwritableRowError(f"attributes nested deeper than {MAX_DEPTH} levels")
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return _string(value)
        case int():
            if not -MAX_INTEGER <= value < MAX_INTEGER:
                raise UnwritableRowError("an attribute holds a whole number beyond 64 bits")
            return str(value)
        case float():
            return _number(value)
        case Mapping():
            parts = [
                f"{'? ' if len(_string(key)) > _MAX_SIMPLE_KEY else ''}{_string(key)} : {_flow(item, depth + 1)}"
                for key, item in value.items()
            ]
            return "{" + ", ".join(parts) + "}"
        case Sequence():
            return "[" + ", ".join(_flow(item, depth + 1) for item in value) + "]"
        case _:
            raise UnwritableRowError(f"an attribute is of type {type(value).__name__}, which JSON does not have")


def _number(value: float) -> str:
    text = repr(value)
    if text in {"inf", "-inf", "nan"}:
        raise UnwritableRowError("an attribute holds a number that JSON does not have")
    return text


def _string(text: str) -> str:
    if _PLAIN.match(text) is not None and text.lower() not in _NEVER_PLAIN:
        return text
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise UnwritableRowError("an attribute holds NUL or half a surrogate pair")
    return '"' + _ESCAPED.sub(_escape, text) + '"'


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    if character in '"\\':
        return f"\\{character}"
    return json.dumps(character)[1:-1] if ord(character) < ord(" ") else f"\\u{ord(character):04x}"
