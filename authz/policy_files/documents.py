"""From the text of `entities.yaml` and `cases.yaml` to typed values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from authz.auth_values import InvalidAuthError, read_auth
from authz.findings import Finding, Severity
from authz.policy_files.times import parse_time
from authz.policy_files.values import CASES_FILE, ENTITIES_FILE, GoldenCase
from authz.policy_files.yaml_text import YamlNode, read_yaml
from authz.request import (
    Action,
    Auth,
    Entity,
    EvaluationRequest,
    InvalidNameError,
    Properties,
    Ref,
    check_action,
    check_id,
    check_type,
    parse_ref,
)
from authz.rules import Effect, EntityKind, Source, StoredEntity
from authz.served_names import check_name

_CASE_KEYS = ("name", "subject", "action", "resource", "context", "auth", "now", "decision", "rules", "why")
_EXAMPLES = {
    "name": "write `name: …`, a sentence that says what the case holds",
    "subject": "write `subject: user:alice`, or `{type: user, id: alice, properties: {}}`",
    "action": "write `action: read`, or `{name: read, properties: {}}`",
    "resource": "write `resource: record:1`, or `{type: record, id: '1', properties: {}}`",
    "decision": "write `decision: true` or `decision: false`",
}
_KINDS = {"subjects": EntityKind.SUBJECT, "resources": EntityKind.RESOURCE}


@dataclass(slots=True)
class ParsedEntities:
    """Stored attributes and findings of one `entities.yaml`; `columns` gives the column of each entity's name."""

    entities: list[StoredEntity] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    columns: dict[tuple[str, ...], int] = field(default_factory=dict)


@dataclass(slots=True)
class ParsedCases:
    """Golden decisions and findings of one `cases.yaml`."""

    cases: list[GoldenCase] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


class _Reader:
    """Collects findings of one YAML file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.findings: list[Finding] = []
        self._faulty: set[tuple[int, int]] = set()

    def document(self, text: str) -> YamlNode | None:
        """Return the document, or None when it is empty or its text cannot be read on."""
        node, faults = read_yaml(text)
        for fault in faults:
            severity = Severity.ERROR
            self._faulty.add((fault.line, fault.column))
            self.findings.append(
                Finding(self._path, fault.line, fault.column, fault.code, severity, fault.message, fault.hint)
            )
        return node

    def report(self, node: YamlNode, code: str, message: str, hint: str) -> None:
        """Add an error at the place of `node`, unless its text is a fault already: one is enough to mend it."""
        if (node.line, node.column) in self._faulty:
            return
        self.findings.append(Finding(self._path, node.line, node.column, code, Severity.ERROR, message, hint))


def parse_entities(text: str, slug: str) -> ParsedEntities:
    """Read `subjects: {user:bob: {role: admin}}` and `resources: {…}`."""
    reader = _Reader(f"{slug}/{ENTITIES_FILE}")
    parsed = ParsedEntities(findings=reader.findings)
    root = reader.document(text)
    if root is None or root.value is None:
        return parsed
    if not root.is_mapping:
        reader.report(root, "entities", "not a mapping", "write `subjects:` and `resources:`")
        return parsed
    for key, section in root.pairs:
        kind = _KINDS.get(key.value)
        if kind is None:
            reader.report(key, "unknown-key", f"`{key.value}` is unknown here", "write `subjects` or `resources`")
        elif section.is_mapping:
            for name, properties in section.pairs:
                _read_entity(reader, parsed, kind, name, properties)
        elif section.value is not None:
            reader.report(section, "entities", f"`{key.value}` is not a mapping", "write `type:id: {name: value}`")
    return parsed


def _read_entity(
    reader: _Reader, parsed: ParsedEntities, kind: EntityKind, name: YamlNode, properties: YamlNode
) -> None:
    try:
        check_name(name.value)
    except InvalidNameError as error:
        reader.report(name, "bad-name", str(error), "write `type:id`, as in `user:alice`; no `*`")
        return
    if not properties.is_mapping and properties.value is not None:
        message = f"the attributes of `{name.value}` are not a mapping"
        reader.report(properties, "entities", message, "write `{name: value}`, or `{}`")
        return
    attributes = properties.plain() or {}
    entity = StoredEntity(kind, Ref(name.value), attributes, source=Source(ENTITIES_FILE, name.line))
    parsed.entities.append(entity)
    parsed.columns[entity.key] = name.column


def parse_cases(text: str, slug: str) -> ParsedCases:
    """Read a list of `{name, subject, action, resource, context?, auth?, now?, decision, rules?, why?}`."""
    reader = _Reader(f"{slug}/{CASES_FILE}")
    parsed = ParsedCases(findings=reader.findings)
    root = reader.document(text)
    if root is None or root.value is None:
        return parsed
    if not root.is_list:
        reader.report(root, "cases", "not a list", "write one `- name: …` for each case")
        return parsed
    names: set[str] = set()
    for node in root.value:
        case = _CaseReader(reader, node).read()
        if case is None:
            continue
        if case.name in names:
            reader.report(node, "duplicate-case", f"the name `{case.name}` stands twice", "give every case its own")
        names.add(case.name)
        parsed.cases.append(case)
    return parsed


class _CaseReader:
    """Reads one entry of `cases.yaml`, reporting every fault of it."""

    def __init__(self, reader: _Reader, node: YamlNode) -> None:
        self._reader = reader
        self._node = node
        self._parts: dict[str, YamlNode] = {}
        self._good = True

    def read(self) -> GoldenCase | None:
        """Return the case, or None after reporting what is wrong."""
        if not self._node.is_mapping:
            self._fault(self._node, "not a mapping", "write `name`, `subject`, `action`, `resource` and `decision`")
            return None
        for key, value in self._node.pairs:
            if key.value in _CASE_KEYS:
                self._parts[key.value] = value
            else:
                known = ", ".join(f"`{word}`" for word in _CASE_KEYS)
                self._reader.report(key, "unknown-key", f"`{key.value}` is unknown here", f"a case has {known}")
                self._good = False
        name = self._text("name", required=True)
        subject = self._entity("subject")
        action = self._action()
        resource = self._entity("resource")
        expected = self._decision()
        context = self._mapping("context")
        auth = self._auth()
        now = self._time()
        rules, positions = self._rules()
        why = self._text("why", required=False)
        if not self._good or name is None or subject is None or action is None or resource is None or expected is None:
            return None
        request = EvaluationRequest(subject, action, resource, context, auth)
        source = Source(CASES_FILE, self._node.line)
        return GoldenCase(name, request, expected, now, rules, why, source, positions)

    def _fault(self, node: YamlNode, message: str, hint: str, code: str = "case") -> None:
        self._reader.report(node, code, message, hint)
        self._good = False

    def _part(self, key: str) -> YamlNode | None:
        node = self._parts.get(key)
        if node is None:
            self._fault(self._node, f"`{key}` is missing", _EXAMPLES[key])
        return node

    def _text(self, key: str, *, required: bool) -> str | None:
        node = self._part(key) if required else self._parts.get(key)
        if node is None:
            return None
        if not isinstance(node.value, str) or not node.value.strip():
            self._fault(node, f"`{key}` is not a text", "write a sentence; quote it if it looks like something else")
            return None
        return " ".join(node.value.split())

    def _entity(self, key: str) -> Entity | None:
        node = self._part(key)
        if node is None:
            return None
        try:
            if isinstance(node.value, str):
                return parse_ref(node.value)
            parts = self._object(node, key, ("type", "id", "properties"))
            if parts is None:
                return None
            kind, identifier = parts.get("type"), parts.get("id")
            if not isinstance(kind, str) or not isinstance(identifier, str):
                self._fault(node, f"`{key}` needs a `type` and an `id`, both texts", _EXAMPLES[key])
                return None
            check_type(kind)
            check_id(identifier)
            return Entity(kind, identifier, self._properties(node, parts))
        except InvalidNameError as error:
            self._fault(node, str(error), _EXAMPLES[key], code="bad-name")
            return None

    def _action(self) -> Action | None:
        node = self._part("action")
        if node is None:
            return None
        try:
            if isinstance(node.value, str):
                check_action(node.value)
                return Action(node.value)
            parts = self._object(node, "action", ("name", "properties"))
            if parts is None:
                return None
            if not isinstance(parts.get("name"), str):
                self._fault(node, "`action` needs a `name`, a text", _EXAMPLES["action"])
                return None
            check_action(parts["name"])
            return Action(parts["name"], self._properties(node, parts))
        except InvalidNameError as error:
            self._fault(node, str(error), _EXAMPLES["action"], code="bad-name")
            return None

    def _object(self, node: YamlNode, key: str, keys: tuple[str, ...]) -> Mapping[str, Any] | None:
        if not node.is_mapping:
            self._fault(node, f"`{key}` is neither a text nor an object", _EXAMPLES[key])
            return None
        for name, _ in node.pairs:
            if name.value not in keys:
                self._fault(name, f"`{name.value}` is unknown here", f"`{key}` has {', '.join(keys)}", "unknown-key")
        parts: Mapping[str, Any] = node.plain()
        return parts

    def _properties(self, node: YamlNode, parts: Mapping[str, Any]) -> Properties:
        properties = parts.get("properties")
        if properties is None:
            return {}
        if not isinstance(properties, dict):
            self._fault(node, "`properties` is not a mapping", "write `{name: value}`")
            return {}
        return properties

    def _mapping(self, key: str) -> Properties:
        node = self._parts.get(key)
        if node is None or node.value is None:
            return {}
        if not node.is_mapping:
            self._fault(node, f"`{key}` is not a mapping", "write `{name: value}`")
            return {}
        properties: Properties = node.plain()
        return properties

    def _auth(self) -> Auth | None:
        node = self._parts.get("auth")
        if node is None or node.value is None:
            return None
        try:
            return read_auth(node.plain(), parse_time)
        except InvalidAuthError as error:
            parts = node.pairs if node.is_mapping else []
            place = next((value for key, value in parts if key.value == error.member), node)
            self._fault(
                place, str(error), "write `auth: {acr: aal2, amr: [pwd, otp, mfa], time: 2027-01-31T00:00:00Z}`"
            )
            return None

    def _decision(self) -> Effect | None:
        node = self._part("decision")
        if node is None:
            return None
        if not isinstance(node.value, bool):
            self._fault(node, "`decision` is neither `true` nor `false`", _EXAMPLES["decision"])
            return None
        return Effect.ALLOW if node.value else Effect.DENY

    def _time(self) -> datetime | None:
        node = self._parts.get("now")
        if node is None or node.value is None:
            return None
        try:
            return parse_time(str(node.value))
        except ValueError as error:
            self._fault(node, str(error), "write RFC 3339 in UTC, as in `2027-01-31T00:00:00Z`", code="bad-time")
            return None

    def _rules(self) -> tuple[tuple[str, ...] | None, tuple[tuple[int, int], ...]]:
        node = self._parts.get("rules")
        if node is None or node.value is None:
            return None, ()
        if not node.is_list or not all(isinstance(item.value, str) for item in node.value):
            self._fault(node, "`rules` is not a list of `policy.csv:LINE`", "write `[policy.csv:3]`, or `[]` for none")
            return None, ()
        return tuple(item.value for item in node.value), tuple((item.line, item.column) for item in node.value)
