"""What the scopes of API keys stand for: a built-in policy, decided by the engine that decides everything else.

The policy is packaged (`key_scopes.csv`) and immutable. It is no part of `_base`, so whoever replaces the base cannot
lock out the keys that would put it right. Its subjects are `scope:<scope>`; a key is a subject that has them as roles.
"""

from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from functools import lru_cache
from importlib import resources

from authz.compile_model import compile_model
from authz.default_model import DEFAULT_MODEL_TEXT
from authz.evaluate import Missing, evaluate_in
from authz.offline import OfflinePolicy
from authz.policy_files import parse_policy, read_columns
from authz.ports import Grant, StoredModel, SubjectRecord
from authz.request import Action, EvaluationRequest, Ref, parse_ref
from authz.rules import BASE_SLUG, Rule
from authz.served_names import SCOPE_SUBJECTS
from authz.snapshot import Facts, Snapshot

_FILE = "key_scopes.csv"
_KEY = Ref("key:any")
_ALWAYS = datetime(2026, 1, 1, tzinfo=UTC)
"""The policy has no condition and no expiry, so any moment is as good as another."""


class KeyScopes:
    """Answers what a set of scopes allows. Use `key_scopes`."""

    def __init__(self, policy: OfflinePolicy) -> None:
        self._policy = policy
        self._facts = lru_cache(maxsize=1024)(self._facts_of)
        self._known = lru_cache(maxsize=4096)(self._decide)

    @property
    def snapshot(self) -> Snapshot:
        """The compiled policy."""
        return self._policy.snapshot

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Every row, in the order of the file."""
        return tuple(self._policy.snapshot.rules)

    def facts(self, scopes: AbstractSet[str]) -> Facts:
        """Return what a key with these scopes is to the policy."""
        return self._facts(frozenset(scopes))

    def allow(self, scopes: AbstractSet[str], resource: str, action: str) -> bool:
        """Return whether a key with these scopes may do `action` on `resource` (`kasbah:…`)."""
        return self._known(frozenset(scopes), resource, action)

    def _facts_of(self, scopes: frozenset[str]) -> Facts:
        record = SubjectRecord(tuple(Grant(Ref(f"{SCOPE_SUBJECTS}{scope}")) for scope in sorted(scopes)))
        return self._policy.snapshot.facts(_KEY, record, _ALWAYS)

    def _decide(self, scopes: frozenset[str], resource: str, action: str) -> bool:
        self._policy.subjects = {_KEY: self._facts(scopes)}
        request = EvaluationRequest(parse_ref(_KEY), Action(action), parse_ref(resource))
        answer = evaluate_in(self._policy, request, now=_ALWAYS)
        if isinstance(answer, Missing):
            raise TypeError("the built-in policy needs nothing that is stored")
        return answer.allowed


@lru_cache(maxsize=1)
def key_scopes() -> KeyScopes:
    """Return the built-in policy, compiled by the compiler of all policies from the default model.

    Raises:
        ValueError: the packaged file is not as it was shipped.
    """
    columns = read_columns(DEFAULT_MODEL_TEXT)
    if columns is None:
        raise ValueError("the default model has no policy definition")
    text = resources.files("authz").joinpath(_FILE).read_text("utf-8")
    parsed = parse_policy(text, BASE_SLUG, columns, built_in=True)
    if parsed.findings or parsed.links or not parsed.rules:
        raise ValueError(f"{_FILE} is damaged: {parsed.findings[:1]}")
    model = compile_model(StoredModel.of(DEFAULT_MODEL_TEXT))
    return KeyScopes(OfflinePolicy.from_rows(BASE_SLUG, model, parsed.rules, ()))
