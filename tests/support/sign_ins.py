"""Policies that ask how people signed in, and sign-ins to ask them with."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from authz.offline import OfflinePolicy
from authz.request import AAL1, AAL2, Auth
from authz.snapshot import build_snapshot
from tests.support.policies import NOW, policy


def signed_in(acr: str = AAL2, amr: Sequence[str] | None = None, *, seconds_ago: float = 0) -> Auth:
    """Return a sign-in of some time ago; with one factor or two by its level, unless methods are given."""
    methods = tuple(amr) if amr is not None else ("pwd",) if acr == AAL1 else ("pwd", "otp", "mfa")
    return Auth(acr, methods, NOW - timedelta(seconds=seconds_ago))


def demanding(text: str, *roles: str) -> OfflinePolicy:
    """Return the policy that `text` writes, of a tenant in which these roles demand a second factor."""
    small: OfflinePolicy = policy(text)
    small.snapshot = build_snapshot(replace(small.snapshot.rule_set, mfa_roles=roles), small.snapshot.model)
    return small
