"""The only importer of `casbin`: parses `model.conf` with PyCasbin's own parser, and answers as PyCasbin does."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import casbin
from casbin import util
from casbin.config import Config
from casbin.model import Model
from casbin.persist import Adapter
from casbin.persist.adapter import _extract_tokens

from authz.compiler import ParsedModel, RoleDefinition
from authz.errors import ModelError
from authz.positional import PolicyRow, RoleFunction, choose_context

MAX_MODEL_LENGTH = 64 * 1024


def parse_model(text: str) -> ParsedModel:
    """Return a `model.conf` as PyCasbin reads it.

    Raises:
        ModelError: PyCasbin cannot read it, or a section that it needs is missing.
    """
    if len(text) > MAX_MODEL_LENGTH:
        raise ModelError(f"the model is longer than {MAX_MODEL_LENGTH} characters")
    text = without_definition_comments(text)
    try:
        config = Config.new_config_from_text(text)
        model = Model()
        model.load_model_from_text(text)
    except (RuntimeError, IndexError) as error:
        raise ModelError(f"the model cannot be read: {error}") from error
    for section, name in (
        ("r", "[request_definition]"),
        ("p", "[policy_definition]"),
        ("e", "[policy_effect]"),
        ("m", "[matchers]"),
    ):
        if section not in model.keys():  # noqa: SIM118 - PyCasbin's Model is no mapping
            raise ModelError(f"the model has no {name} with `{section} = …`")
    return ParsedModel(
        requests={key: _names(key, ast) for key, ast in model["r"].items()},
        policies={key: _names(key, ast) for key, ast in model["p"].items()},
        roles={key: _role(key, ast) for key, ast in (model["g"] or {}).items()},
        effects={key: _raw(config, "policy_effect", key) for key in model["e"]},
        matchers={key: _raw(config, "matchers", key) for key in model["m"]},
    )


def without_definition_comments(text: str) -> str:
    """Return a model without the comments that stand behind its definitions, as Casbin for Go reads it.

    SECURITY: PyCasbin makes such a comment part of the last name: with `p = sub, obj, act, eft # …` it no longer sees
    the column `eft`, so that every deny allows.
    """
    section, lines = "", []
    for line in text.split("\n"):
        plain = line.strip()
        if plain.startswith("[") and plain.endswith("]"):
            section = plain[1:-1]
        elif section in _DEFINITIONS and not plain.startswith(("#", ";")):
            lines.append(_COMMENT.split(line, maxsplit=1)[0])
            continue
        lines.append(line)
    return "\n".join(lines)


_DEFINITIONS = frozenset({"request_definition", "policy_definition", "role_definition"})
_COMMENT = re.compile("[#;]")


def _names(key: str, assertion: Any) -> tuple[str, ...]:
    names = tuple(token.removeprefix(f"{key}_") for token in assertion.tokens)
    for name in names:
        if not name.isidentifier():
            raise ModelError(f"`{name}` in the definition `{key}` is not a name")
    return names


def _role(key: str, assertion: Any) -> RoleDefinition:
    columns = assertion.value.count("_")
    if assertion.params_tokens:
        return RoleDefinition(columns, conditional=True)
    if columns < 2:  # noqa: PLR2004 - member and role
        raise ModelError(f"the role definition `{key}` needs at least two `_`")
    return RoleDefinition(columns)


def _raw(config: Any, section: str, key: str) -> str:
    text: str = config.get(f"{section}::{key}")
    return text


@dataclass(frozen=True, slots=True)
class OracleAnswer:
    """What PyCasbin says: a decision and the one row it names, or the error that it raised."""

    decision: bool | None
    rule: tuple[str, ...] = ()
    error: str = ""


class CasbinOracle:
    """PyCasbin, loaded with exactly the given rows; asking leaves nothing behind.

    Role managers keep every name they were asked about, so that later answers depend on it and memory grows: each name
    is taken out again. Where names are patterns, one matters to the next, so it goes as soon as it was asked about;
    else when the whole question is answered, since getting to know a name is what takes PyCasbin the longest.
    """

    def __init__(
        self,
        model_text: str,
        rows: Sequence[PolicyRow],
        *,
        functions: Sequence[RoleFunction] = (),
        context: str = "",
    ) -> None:
        self._enforcer: Any = None
        self._context: Any = None
        self.load_error = ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._load(model_text, rows, functions, context)
        except Exception as error:  # noqa: BLE001 - PyCasbin raises plain Exception, and each is an answer here
            self.load_error = f"{type(error).__name__}: {error}"

    def _load(
        self, model_text: str, rows: Sequence[PolicyRow], functions: Sequence[RoleFunction], context: str
    ) -> None:
        model = casbin.Enforcer.new_model(text=without_definition_comments(model_text))
        enforcer = casbin.Enforcer(model, _Rows(rows))
        for function in functions:
            match = PYCASBIN_FUNCTIONS[function.name]
            if function.side == "domain":
                enforcer.add_named_domain_matching_func(function.definition, match)
            else:
                enforcer.add_named_matching_func(function.definition, match)
        for assertion in (enforcer.model["g"] or {}).values():
            assertion.rm = _Forgetful(assertion.rm, at_once=bool(functions))
        if context:
            chosen = choose_context(parse_model(model_text), context)
            self._context = casbin.core_enforcer.EnforceContext(
                chosen.request, chosen.policy, chosen.effect, chosen.matcher
            )
        self._enforcer = enforcer

    def ask(self, request: Sequence[object], links: Sequence[PolicyRow] = ()) -> OracleAnswer:
        """Return what `enforce_ex` answers, or raises, for the request.

        Args:
            request: Its values.
            links: Rows of role definitions that hold for this question alone.
        """
        if self.load_error:
            return OracleAnswer(None, error=self.load_error)
        values = list(request) if self._context is None else [self._context, *request]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for link in links:
                    self._enforcer.model["g"][link.kind].rm.add(*link.values)
                decision, rule = self._enforcer.enforce_ex(*values)
        except Exception as error:  # noqa: BLE001 - as above
            return OracleAnswer(None, error=f"{type(error).__name__}: {error}")
        finally:
            for assertion in (self._enforcer.model["g"] or {}).values():
                assertion.rm.forget()
        return OracleAnswer(bool(decision), tuple(rule))


def rows_as_casbin_reads(text: str, name: str) -> list[PolicyRow]:
    """Return the rows that PyCasbin's file adapter finds in a policy file.

    Raises:
        ModelError: PyCasbin cannot read a line.
    """
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            tokens = _extract_tokens(line.strip())
        except IndexError as error:
            raise ModelError(f"{name}:{number}: PyCasbin cannot read this line: a bracket is closed twice") from error
        if tokens is not None:
            rows.append(PolicyRow(tokens[0], tuple(tokens[1:]), f"{name}:{number}"))
    return rows


class _Rows(Adapter):  # type: ignore[misc]  # PyCasbin is untyped
    """Hands PyCasbin the rows as its own `load_policy_line` would, without its CSV code."""

    def __init__(self, rows: Sequence[PolicyRow]) -> None:
        self._rows = rows

    def load_policy(self, model: Any) -> None:
        for row in self._rows:
            assertion = (model.model.get(row.kind[:1]) or {}).get(row.kind)
            if assertion is not None:
                assertion.policy.append(list(row.values))


class _Forgetful:
    """A role manager that takes out the names, links and domains it got to know by being asked."""

    def __init__(self, manager: Any, *, at_once: bool) -> None:
        self._manager = manager
        self._at_once = at_once
        self._names: list[tuple[Any, list[Any]]] = []
        self._links: list[tuple[Any, Any, Any]] = []
        self._domains: list[Any] = []

    def has_link(self, name: Any, role: Any, *domain: Any) -> bool:
        manager, rest = self._manager_of(domain)
        new = self._unknown(manager, name, role)
        try:
            return bool(manager.has_link(name, role, *rest))
        finally:
            if self._at_once:
                self._take_out(manager, new)
            elif new:
                self._names.append((manager, new))

    def add(self, name: Any, role: Any, *domain: Any) -> None:
        """Add a link until `forget`, if there is none."""
        manager, _ = self._manager_of(domain)
        if (name, role) in manager.all_links:
            return
        self._names.append((manager, self._unknown(manager, name, role)))
        self._links.append((manager, name, role))
        manager.add_link(name, role)

    def forget(self) -> None:
        """Drop what came of a question."""
        for manager, name, role in self._links:
            manager.delete_link(name, role)
        for manager, names in self._names:
            self._take_out(manager, names)
        for domain in self._domains:
            self._manager.rm_map.pop(domain, None)
        for known in (self._links, self._names, self._domains):
            known.clear()

    def _manager_of(self, domain: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        """Return the manager that knows the names, and what it wants to be told besides them."""
        managers = getattr(self._manager, "rm_map", None)
        if managers is None:
            return self._manager, domain
        where = domain[0] if domain else ""
        if where not in managers and where not in self._manager.all_links:
            self._domains.append(where)
        return self._manager._get_role_manager(*domain), ()  # noqa: SLF001 - what DomainManager.has_link does

    @staticmethod
    def _unknown(manager: Any, name: Any, role: Any) -> list[Any]:
        return [one for one in dict.fromkeys((name, role)) if one not in manager.all_roles]

    @staticmethod
    def _take_out(manager: Any, names: list[Any]) -> None:
        for name in names:
            entry = manager.all_roles.pop(name, None)
            if entry is None:
                continue
            for other in list(entry.roles):
                other.users.discard(entry)
            for other in list(entry.users):
                other.roles.discard(entry)


PYCASBIN_FUNCTIONS = {
    "globMatch": util.glob_match,
    "ipMatch": util.ip_match,
    "keyMatch": util.key_match,
    "keyMatch2": util.key_match2,
    "keyMatch3": util.key_match3,
    "keyMatch4": util.key_match4,
    "keyMatch5": util.key_match5,
    "regexMatch": util.regex_match,
}
