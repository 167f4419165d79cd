"""Golden decisions: does every case of `cases.yaml` come out as written, and which rules does no case reach?"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from authz.explain import explain
from authz.offline import OfflinePolicy
from authz.policy_files import GoldenCase, PolicyDirectory
from authz.rules import Effect, Rule, RuleId
from authz.served_model import ServedModel


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How one case came out. `problems` is empty when it passed; the explanation is that of the answer given."""

    case: GoldenCase
    decision: Effect
    rules: tuple[str, ...]
    errors: tuple[str, ...]
    problems: tuple[str, ...]
    explanation: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether decision and rules are those of the case."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class TenantResult:
    """All cases of one tenant. `missed` are its own rules that determined no answer, in file order."""

    slug: str
    results: tuple[CaseResult, ...]
    rules: int
    missed: tuple[Rule, ...]

    @property
    def passed(self) -> bool:
        """Whether every case passed."""
        return all(result.passed for result in self.results)


@dataclass(frozen=True, slots=True)
class GoldenReport:
    """Outcome of a run over a policy directory."""

    tenants: tuple[TenantResult, ...]

    @property
    def passed(self) -> bool:
        """Whether every case of every tenant passed."""
        return all(tenant.passed for tenant in self.tenants)


def run_cases(
    directory: PolicyDirectory, model: ServedModel, *, now: datetime, tenants: Collection[str] | None = None
) -> GoldenReport:
    """Run the cases of the base and of each tenant (or of those named), from the files alone.

    Cases of `_base` are asked where only the base's rules hold. A rule of the base counts as reached when a case of
    any tenant that was run determines its answer by it.

    Args:
        directory: Without errors: rows that could not be read would be missing from the answers.
        model: The compiled `model.conf`.
        now: Aware; the time of cases that do not say theirs.
        tenants: Slugs, `_base` among them for the base's own; None for all.
    """
    reached: set[RuleId] = set()
    found: list[TenantResult] = []
    for files in sorted(directory.parts(), key=lambda part: part.is_base):
        if tenants is None or files.slug in tenants:
            rows = () if files.is_base else files.rows
            policy = OfflinePolicy.from_rows(files.slug, model, directory.base.rows, rows)
            own: set[RuleId] = set()
            results = tuple(_run(policy, case, now, own, reached) for case in files.cases)
            hits = reached if files.is_base else own
            missed = tuple(rule for rule in files.rules if rule.id not in hits)
            if files.present:
                found.append(TenantResult(files.slug, results, len(files.rules), missed))
    return GoldenReport(tuple(found))


def _run(policy: OfflinePolicy, case: GoldenCase, now: datetime, own: set[RuleId], base: set[RuleId]) -> CaseResult:
    """Ask one case; add the rules that determined its answer to `own` or `base`."""
    moment = case.now or now
    decision = policy.decide(case.request, moment)
    for determining in decision.determining:
        (base if determining.base else own).add(determining.id)
    rules = tuple(sorted({str(each.source) for each in decision.determining if each.source is not None}, key=_by_line))
    problems = list(_problems(case, decision.effect, rules))
    explanation = explain(policy, case.request, decision, moment).lines() if problems else []
    return CaseResult(case, decision.effect, rules, decision.errors, tuple(problems), tuple(explanation))


def _problems(case: GoldenCase, effect: Effect, rules: Sequence[str]) -> list[str]:
    if effect is not case.expected:
        return [f"expected {case.expected.value}, got {effect.value}"]
    if case.rules is not None and set(case.rules) != set(rules):
        return [f"expected {effect.value} by {_listed(case.rules)}, got {effect.value} by {_listed(rules)}"]
    return []


def _listed(rules: Sequence[str]) -> str:
    return ", ".join(rules) or "no rule"


def _by_line(place: str) -> tuple[str, int]:
    file, _, line = place.rpartition(":")
    return file, int(line)
