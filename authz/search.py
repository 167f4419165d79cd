"""AuthZEN searches: the filter of named candidates by evaluation (Authorization API 1.0, section 8).

Candidates are the subjects, resources and actions named exactly in rules, `g`, `g2` and stored entities; wildcards add
none. Results come in order of id, code point by code point.
"""

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, cast

from authz.errors import StaleError
from authz.evaluate import EvaluationNode, StateView, evaluate_many
from authz.request import Auth, EvaluationRequest, Ref
from authz.snapshot import Snapshot
from tenancy.ids import TenantId, TenantStatus

CHUNK = 1024
"""Candidates evaluated at once, at one revision."""

MAX_EXAMINED = 4096
"""Candidates examined for one page; a page may be short, and its token goes on where it stopped."""

MAX_RESTARTS = 3


@dataclass(frozen=True, slots=True)
class SearchPage:
    """Ids (or action names) that are allowed, ascending; `next_after` is None on the last page."""

    results: tuple[str, ...]
    next_after: str | None
    revision: int


class CandidateReader(Protocol):
    """Candidates that live in the database only."""

    async def list_subject_candidates(self, tenant_id: TenantId, kind: str, after: str, limit: int) -> Sequence[str]:
        """Return ids of type `kind` after `after`, ascending."""

    async def list_resource_candidates(self, tenant_id: TenantId, kind: str, after: str, limit: int) -> Sequence[str]:
        """Return ids of type `kind` after `after`, ascending."""


@dataclass(frozen=True, slots=True)
class SearchContext:
    """Where and how a search runs."""

    node: EvaluationNode
    reader: CandidateReader
    tenant_id: TenantId
    min_revision: int | None = None
    signed_in: tuple[Ref, Auth | None] | None = None
    """A subject, and how it signed in; where it is a candidate, it is asked about as by itself."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Where candidates come from, and the question about one of them.

    `named` are those in the rules; `stored` gives those of the database after a name, at most so many.
    """

    named: Callable[[Snapshot], Sequence[str]]
    stored: Callable[[str, int], Awaitable[Sequence[str]]]
    question_of: Callable[[str], EvaluationRequest]


async def search_subjects(where: SearchContext, question: EvaluationRequest, *, after: str, limit: int) -> SearchPage:
    """Return subjects of `question.subject.type` that are allowed; the subject's id is ignored.

    Raises:
        StaleError, StorageUnavailableError, TenantNotFoundError: as `evaluate`.
    """
    kind = question.subject.type

    def question_of(name: str) -> EvaluationRequest:
        asked = replace(question, subject=replace(question.subject, id=name))
        known = where.signed_in
        return asked if known is None or known[0] != asked.subject.ref else replace(asked, auth=known[1])

    source = _Source(
        named=lambda snapshot: named_subjects(snapshot).get(kind, ()),
        stored=partial(where.reader.list_subject_candidates, where.tenant_id, kind),
        question_of=question_of,
    )
    return await _search(where, source, after, limit)


async def search_resources(where: SearchContext, question: EvaluationRequest, *, after: str, limit: int) -> SearchPage:
    """Return resources of `question.resource.type` that are allowed; the resource's id is ignored.

    Raises:
        StaleError, StorageUnavailableError, TenantNotFoundError: as `evaluate`.
    """
    kind = question.resource.type
    source = _Source(
        named=lambda snapshot: named_resources(snapshot).get(kind, ()),
        stored=partial(where.reader.list_resource_candidates, where.tenant_id, kind),
        question_of=lambda name: replace(question, resource=replace(question.resource, id=name)),
    )
    return await _search(where, source, after, limit)


async def search_actions(where: SearchContext, question: EvaluationRequest, *, after: str, limit: int) -> SearchPage:
    """Return actions that are allowed; the action's name is ignored.

    Raises:
        StaleError, StorageUnavailableError, TenantNotFoundError: as `evaluate`.
    """
    source = _Source(
        named=named_actions,
        stored=_none_stored,
        question_of=lambda name: replace(question, action=replace(question.action, name=name)),
    )
    return await _search(where, source, after, limit)


async def _none_stored(_after: str, _limit: int) -> Sequence[str]:
    """Actions stand in rules only."""
    return ()


def named_subjects(snapshot: Snapshot) -> dict[str, Sequence[str]]:
    """Return subject ids named exactly in rules and hierarchy links, by type, sorted."""
    if "subjects" not in snapshot.memo:
        names = {rule.subject for rule in snapshot.rules if "*" not in rule.subject}
        snapshot.memo["subjects"] = _by_type(names | snapshot.hierarchy.names())
    return cast("dict[str, Sequence[str]]", snapshot.memo["subjects"])


def named_resources(snapshot: Snapshot) -> dict[str, Sequence[str]]:
    """Return resource ids named exactly in rules and `g2` links, by type, sorted."""
    if "resources" not in snapshot.memo:
        names = {rule.resource for rule in snapshot.rules if "*" not in rule.resource}
        snapshot.memo["resources"] = _by_type(names | snapshot.grouped_resources())
    return cast("dict[str, Sequence[str]]", snapshot.memo["resources"])


def named_actions(snapshot: Snapshot) -> Sequence[str]:
    """Return action names in rules, sorted."""
    if "actions" not in snapshot.memo:
        snapshot.memo["actions"] = sorted({rule.action for rule in snapshot.rules if rule.action != "*"})
    return cast("Sequence[str]", snapshot.memo["actions"])


def _by_type(names: set[str]) -> dict[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        kind, _, identifier = name.partition(":")
        found.setdefault(kind, []).append(identifier)
    for identifiers in found.values():
        identifiers.sort()
    return dict(found)


async def _search(where: SearchContext, source: _Source, after: str, limit: int) -> SearchPage:
    for _ in range(MAX_RESTARTS):
        page = await _page(where, source, after, limit)
        if page is not None:
            return page
    raise StaleError("the tenant's rules kept changing during the search")


async def _page(where: SearchContext, source: _Source, after: str, limit: int) -> SearchPage | None:
    """Return a page that is true at one revision, or None when the rules moved on before its first chunk.

    When the tenant moves on later, the page ends early, where the revision that it is true at ends; and where the work
    of conditions that one part of a search may make ends, so that a candidate is always answered as by itself.
    """
    state: StateView = await where.node.load(where.tenant_id, (), (), where.min_revision)
    if state.head.status is not TenantStatus.ACTIVE:
        return SearchPage((), None, state.head.revision)  # every candidate would be a deny, however many there are
    in_rules = source.named(state.snapshot)
    revision: int | None = None
    results: list[str] = []
    examined = 0
    while True:
        chunk = _merge(in_rules, await source.stored(after, CHUNK), after)
        if not chunk:
            return SearchPage(tuple(results), None, state.head.revision if revision is None else revision)
        questions = [source.question_of(candidate) for candidate in chunk]
        decisions = await evaluate_many(
            where.node, where.tenant_id, questions, min_revision=where.min_revision, within_allowance=True
        )
        if revision is None:
            now = await where.node.load(where.tenant_id, (), (), where.min_revision)
            if now.snapshot is not state.snapshot:
                return None
            revision = decisions[0].revision
        elif decisions[0].revision != revision:
            return SearchPage(tuple(results), after, revision)
        for candidate, decision in zip(chunk, decisions, strict=False):
            if decision.allowed:
                if len(results) == limit:
                    # One more exists: the page ends before it.
                    return SearchPage(tuple(results), after, revision)
                results.append(candidate)
            after = candidate
        examined += len(chunk)
        if examined >= MAX_EXAMINED or len(decisions) < len(chunk):
            return SearchPage(tuple(results), after, revision)


def _merge(in_rules: Sequence[str], from_database: Sequence[str], after: str) -> list[str]:
    """Return the next candidates after `after` from both sorted sources, none left out before the last one."""
    start = bisect_right(in_rules, after) if after else 0
    merged = sorted({*in_rules[start : start + CHUNK], *from_database})
    return merged[:CHUNK]
