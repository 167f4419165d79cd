"""`kasbah policy lint` and `kasbah policy test`: a policy directory checked from its files alone."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from authz.compile_model import compile_model
from authz.findings import Finding, Severity
from authz.golden import CaseResult, GoldenReport, TenantResult, run_cases
from authz.lint import LintLimits
from authz.lint import lint as find_faults
from authz.policy_files import PolicyDirectory
from authz.policy_files.values import CASES_FILE, MODEL_FILE
from authz.ports import StoredModel
from authz.role_chains import MAX_CHAIN
from authz.rules import BASE_SLUG, Rule
from service.cli.directories import read_policies
from service.cli.output import ExitCode, emit, fail, output_option, printable, progress, table

MAX_SHOWN_RULES = 10
"""At most this many unreached rules are listed for people; JSON has them all."""

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow"}
_directory = click.argument("directory", type=click.Path(path_type=Path))
_tenants = click.option(
    "--tenant", "tenants", multiple=True, metavar="SLUG", help="Only this tenant (and the base); may be repeated."
)


@click.command()
@_directory
@_tenants
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings, too.")
@click.option(
    "--max-role-depth",
    type=click.IntRange(1, MAX_CHAIN),
    default=MAX_CHAIN,
    show_default=True,
    help="Longest chain of roles, counted in the links between them; the server's limit is the most.",
)
@output_option
def lint(directory: Path, tenants: tuple[str, ...], max_role_depth: int, output: str, *, strict: bool) -> None:
    """Check the files of a policy directory; report every finding.

    Exits with 1 when there are errors (with --strict: or warnings), with 2 when DIRECTORY cannot be read.
    """
    limits = LintLimits(max_role_depth=max_role_depth)
    with progress("checking"):
        read = _read(directory, tenants)
        findings = find_faults(read, now=datetime.now(UTC), compile_model=compile_model, limits=limits)
    errors = sum(finding.is_error for finding in findings)
    warnings = len(findings) - errors

    def render() -> None:
        for finding in findings:
            _print_finding(directory, finding)
        rows = _count(sum(len(part.rules) + len(part.links) for part in read.parts()), "row")
        where = f"{_count(len(read.tenants), 'tenant')}, {rows}"
        click.echo(f"{_count(errors, 'error')}, {_count(warnings, 'warning')} in {where}")

    data = {"errors": errors, "warnings": warnings, "findings": [_finding_data(finding) for finding in findings]}
    emit(output, data, render)
    if errors or (strict and warnings):
        raise SystemExit(ExitCode.FINDINGS)


@click.command()
@_directory
@_tenants
@output_option
def test(directory: Path, tenants: tuple[str, ...], output: str) -> None:
    """Run the golden decisions of every cases.yaml; say which rules no case reaches.

    Exits with 1 when a case fails or a file has errors, with 2 when DIRECTORY cannot be read.
    """
    now = datetime.now(UTC)
    report = GoldenReport(())
    with progress("testing"):
        read = _read(directory, tenants)
        findings = find_faults(read, now=now, compile_model=compile_model)
        errors = [finding for finding in findings if finding.is_error]
        runnable = _runnable(read, errors)
        if runnable:
            report = run_cases(read, compile_model(StoredModel.of(read.model_text)), now=now, tenants=runnable)

    def render() -> None:
        for finding in errors:
            _print_finding(directory, finding)
        for tenant in report.tenants:
            _print_tenant(directory, tenant)
        cases = [result for tenant in report.tenants for result in tenant.results]
        failed = sum(not result.passed for result in cases)
        summary = f"{_count(len(cases), 'case')}, {failed} failed"
        if errors:
            summary += f"; {_count(len(errors), 'error')} in the files: tenants with errors were not run"
        click.secho(summary, fg="red" if failed or errors else "green")

    emit(output, _report_data(report, errors), render)
    if errors or not report.passed:
        raise SystemExit(ExitCode.FINDINGS)


def _read(directory: Path, tenants: Sequence[str]) -> PolicyDirectory:
    read = read_policies(directory, tenants)
    known = {*read.tenants, BASE_SLUG, *(finding.file.partition("/")[0] for finding in read.findings)}
    for slug in tenants:
        if slug not in known:
            fail(f"`{directory}` has no tenant `{slug}`", ExitCode.USAGE)
    return read


def _runnable(read: PolicyDirectory, errors: Sequence[Finding]) -> set[str]:
    """Return the parts whose answers the files fully describe.

    A part with an error is left out: a row that could not be read could be the one that denies.
    """
    broken = {
        finding.file.partition("/")[0]
        for finding in errors
        if not (finding.file.endswith(f"/{CASES_FILE}") and finding.code == "unknown-rule")
    }
    if MODEL_FILE in broken or BASE_SLUG in broken:
        return set()
    return {part.slug for part in read.parts()} - broken


def _print_finding(directory: Path, finding: Finding) -> None:
    place = printable(f"{directory / finding.file}:{finding.line}:{finding.column}")
    severity = click.style(finding.severity.value, fg=_COLOURS[finding.severity], bold=True)
    click.echo(f"{place}: {severity}: {printable(finding.message)} [{finding.code}]")
    click.echo(f"    hint: {printable(finding.hint)}")


def _finding_data(finding: Finding) -> dict[str, Any]:
    return {
        "file": finding.file,
        "line": finding.line,
        "column": finding.column,
        "severity": finding.severity.value,
        "code": finding.code,
        "message": finding.message,
        "hint": finding.hint,
    }


def _print_tenant(directory: Path, tenant: TenantResult) -> None:
    passed = sum(result.passed for result in tenant.results)
    reached = tenant.rules - len(tenant.missed)
    cases = f"{passed} of {_count(len(tenant.results), 'case')} passed"
    click.echo(f"{tenant.slug}: {cases}, {reached} of {_count(tenant.rules, 'rule')} reached")
    failures = [result for result in tenant.results if not result.passed]
    if failures:
        table(["case", "question", "outcome", "at"], [_failure_row(directory, tenant, each) for each in failures])
    for result in failures:
        click.echo(f"  {printable(result.case.name)}")
        if result.case.why is not None:
            click.echo(f"    why: {printable(result.case.why)}")
        for line in (*result.explanation, *(f"  error: {error}" for error in result.errors)):
            click.echo(f"    {printable(line)}")
    if tenant.results and tenant.missed:
        click.echo("  no case reaches:")
        for rule in tenant.missed[:MAX_SHOWN_RULES]:
            click.echo(f"    {printable(f'{rule.source}: {_rule_text(rule)}')}")
        if len(tenant.missed) > MAX_SHOWN_RULES:
            click.echo(f"    … and {len(tenant.missed) - MAX_SHOWN_RULES} more")


def _failure_row(directory: Path, tenant: TenantResult, result: CaseResult) -> list[str]:
    request = result.case.request
    question = f"{request.subject.ref} {request.action.name} {request.resource.ref}"
    place = f"{directory / tenant.slug / result.case.source.file}:{result.case.source.line}"
    return [result.case.name, question, "; ".join(result.problems), place]


def _report_data(report: GoldenReport, errors: Sequence[Finding]) -> dict[str, Any]:
    return {
        "passed": report.passed and not errors,
        "findings": [_finding_data(finding) for finding in errors],
        "tenants": [
            {
                "tenant": tenant.slug,
                "cases": [_case_data(tenant, result) for result in tenant.results],
                "coverage": {
                    "rules": tenant.rules,
                    "reached": tenant.rules - len(tenant.missed),
                    "missed": [{"rule": str(rule.source), "text": _rule_text(rule)} for rule in tenant.missed],
                },
            }
            for tenant in report.tenants
        ],
    }


def _case_data(tenant: TenantResult, result: CaseResult) -> dict[str, Any]:
    case = result.case
    return {
        "name": case.name,
        "file": f"{tenant.slug}/{case.source.file}",
        "line": case.source.line,
        "passed": result.passed,
        "expected": {
            "decision": case.expected.value == "allow",
            "rules": None if case.rules is None else list(case.rules),
        },
        "actual": {
            "decision": result.decision.value == "allow",
            "rules": list(result.rules),
            "errors": list(result.errors),
        },
        "problems": list(result.problems),
        "why": case.why,
        "explanation": list(result.explanation),
    }


def _rule_text(rule: Rule) -> str:
    text = f"{rule.effect.value} {rule.subject} {rule.action} {rule.resource}"
    return text if rule.condition is None else f"{text} if {rule.condition}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
