"""Runs all checks over a policy directory."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from authz.conditions import compile_condition
from authz.errors import ConditionError, ModelError
from authz.findings import Finding, Severity, in_order
from authz.lint.coverage import check_coverage
from authz.lint.names import check_names
from authz.lint.part import Part
from authz.lint.roles import check_links, check_roles
from authz.policy_files import PolicyDirectory
from authz.policy_files.values import CASES_FILE, MODEL_FILE, POLICY_FILE
from authz.ports import StoredModel
from authz.role_chains import MAX_CHAIN
from authz.row_checks import entity_fault
from authz.rules import Rule
from authz.served_model import ServedModel
from authz.served_names import ROLE_TYPES

_PLACE = re.compile(r"(?:line (\d+), )?column (\d+): ")
_UNKNOWN_NAME = re.compile(r"undeclared reference to '([^']+)'")
_CASE_RULE = re.compile(r"(_base/)?policy\.csv:([1-9][0-9]{0,8})\Z")


@dataclass(frozen=True, slots=True)
class LintLimits:
    """`max_role_depth` is how many links between roles and groups a chain may have; the server's limit by default."""

    max_role_depth: int = MAX_CHAIN


def lint(
    directory: PolicyDirectory,
    *,
    now: datetime,
    compile_model: Callable[[StoredModel], ServedModel],
    limits: LintLimits | None = None,
) -> list[Finding]:
    """Return every finding, sorted by file, line and column.

    Args:
        directory: What was read; its own findings are included.
        now: Aware; grants that are over by then are reported.
        compile_model: Compiles a `model.conf`, or raises `ModelError`.
        limits: Defaults when None.
    """
    limits = limits or LintLimits()
    findings = list(directory.all_findings)
    model = _check_model(directory, compile_model, findings)
    for files in directory.parts():
        part = Part(files, directory.base, directory.columns, model)
        check_links(part, now.timestamp())
        check_roles(part, limits.max_role_depth)
        _check_rules(part)
        check_coverage(part)
        check_names(part)
        _check_entities(part)
        _check_cases(part)
        findings.extend(part.findings)
    return in_order(findings)


def _check_model(
    directory: PolicyDirectory, compile_model: Callable[[StoredModel], ServedModel], findings: list[Finding]
) -> ServedModel | None:
    """Report a model that cannot be served, or only slowly."""
    if any(finding.file == MODEL_FILE for finding in directory.findings):
        return None

    def report(line: int, code: str, severity: Severity, message: str, hint: str) -> None:
        findings.append(Finding(MODEL_FILE, line, 1, code, severity, message, hint))

    try:
        model = compile_model(StoredModel.of(directory.model_text))
    except ModelError as error:
        hint = "`kasbah policy eval` answers for more models than are served"
        line = _line_of(directory.model_text, error.definition)
        report(line, "model", Severity.ERROR, str(error), hint)
        return None
    for note in model.notes:
        line = _line_of(directory.model_text, "m")
        hint = "answers stay right, but each one looks at more rules"
        report(line, "unindexed-matcher", Severity.WARNING, note, hint)
    if not directory.columns_known or directory.columns.rule != model.columns:
        line = _line_of(directory.model_text, "p")
        message = f"the columns of `p` are read in another way than compiled: {', '.join(model.columns)}"
        report(line, "model", Severity.ERROR, message, "write one `p = sub, dom, obj, act, eft, cond`")
        return None
    return model


def _line_of(model_text: str, key: str) -> int:
    for number, line in enumerate(model_text.splitlines(), 1):
        if line.partition("=")[0].strip() == key and "=" in line:
            return number
    return 1


def _check_rules(part: Part) -> None:
    """Report conditions that do not compile, and subjects that match less than they seem to."""
    faults: dict[str, str | None] = {}
    for rule in part.own.rules:
        text = rule.condition
        if text is not None:
            if text not in faults:
                faults[text] = _fault_of(text)
            fault = faults[text]
            if fault is not None:
                _report_condition(part, rule, fault)
            elif text.strip() == "false":
                part.at_rule(rule, "cond", "never-matches", "the condition is never true", "remove the rule")
        subject = rule.subject
        if subject.endswith("*") and subject.partition(":")[0] in ROLE_TYPES:
            kind = subject.partition(":")[0]
            message = f"`{subject}` means each {kind} itself as a subject, not its members"
            part.at_rule(rule, "sub", "pattern-on-roles", message, f"name one {kind}, or use `user:*`")


def _fault_of(text: str) -> str | None:
    try:
        compile_condition(text)
    except ConditionError as error:
        return str(error)
    return None


def _report_condition(part: Part, rule: Rule, fault: str) -> None:
    """Report at the very place inside the condition, where the message names one."""
    place = part.columns.rule.index("cond") + 1
    line = rule.source.line if rule.source is not None else 1
    found = _PLACE.match(fault)
    offset = 0
    text = rule.condition or ""
    if found is not None:
        inner_line, inner_column = int(found[1] or 1), int(found[2])
        before = text.split("\n")[: inner_line - 1]
        offset = min(sum(len(each) + 1 for each in before) + inner_column - 1, len(text))
        fault = fault[found.end() :]
    position = part.own.position_inside(line, place, offset)
    part.at_place(POLICY_FILE, position, "condition", fault, _condition_hint(fault), severity=Severity.ERROR)


def _condition_hint(fault: str) -> str:
    """Return what most often is behind a condition that CEL does not take."""
    if "token recognition error at: '= '" in fault or "token recognition error at: '='" in fault:
        return "`==` compares"
    if "token recognition error" in fault:
        return "texts stand in plain quotes, as in `'draft'`"
    if (found := _UNKNOWN_NAME.search(fault)) is not None:
        name = found[1]
        if "." in name:
            return "attributes stand under `properties`, as in `subject.properties.department`; `type` and `id` do not"
        return f"for the text write `'{name}'`; names are subject, action, resource, context, auth and now"
    if fault.endswith("not a boolean"):
        return "compare it with something, as in `== 'draft'`"
    return "conditions are CEL over subject, action, resource, context, auth and now"


def _check_entities(part: Part) -> None:
    """Report attributes that the server would refuse."""
    for entity in part.own.entities:
        fault = entity_fault(entity)
        if fault is not None:
            part.at_entity(entity, "entity-size", fault, "keep less in attributes", severity=Severity.ERROR)


def _check_cases(part: Part) -> None:
    """Report cases that name rules which are not there."""
    own = {rule.source.line for rule in part.own.rules if rule.source is not None}
    own |= {finding.line for finding in part.own.findings}  # such a row is reported already
    base = {rule.source.line for rule in part.base.rules if rule.source is not None}
    for case in part.own.cases:
        for name, position in zip(case.rules or (), case.rule_positions, strict=True):
            found = _CASE_RULE.match(name)
            hint = "write `policy.csv:LINE` or `_base/policy.csv:LINE`"
            if found is None:
                message = f"`{name}` names no rule"
            elif int(found[2]) not in (base if found[1] else own):
                message, hint = f"no rule stands at `{name}`", "lines move when a file is edited: look it up again"
                if part.own.is_base and not found[1]:
                    hint = "write `_base/policy.csv:LINE`"
            else:
                continue
            part.at_place(CASES_FILE, position, "unknown-rule", message, hint, severity=Severity.ERROR)
