"""Which tenant a request is about, and what happens when its parts disagree.

A tenant may be named by the credential, the path, the `X-Tenant-ID` header, the `tenant` query parameter, and the
subdomain of a configured base domain. All that name one must name the same one.
"""

from collections.abc import Sequence
from typing import Protocol

from authz.ports import TenantHead
from authz.rules import BASE_SLUG
from service.caller import Caller
from service.edge_errors import (
    InvalidRequestError,
    NoSuchTenantError,
    OtherTenantError,
    TenantConflictError,
    TenantRequiredError,
)
from tenancy.ids import BASE_TENANT_ID, PLATFORM_SLUG, PLATFORM_TENANT_ID, SLUG_PATTERN, TenantId, TenantStatus

TENANT_HEADER = "X-Tenant-ID"
TENANT_PARAMETER = "tenant"


class TenantDirectory(Protocol):
    """Where tenants are found."""

    async def find_tenant(self, tenant_id: TenantId) -> TenantHead | None:
        """Return the head, or None."""

    async def find_tenant_by_slug(self, slug: str) -> TenantHead | None:
        """Return the head, or None."""


def named_tenant(
    *, headers: Sequence[str], parameters: Sequence[str], host: Sequence[str], base_domain: str | None, path: str | None
) -> str | None:
    """Return the one name that a request gives to its tenant beside its credential, or None.

    Args:
        headers: All `X-Tenant-ID` values.
        parameters: All `tenant` query values.
        host: All `Host` values.
        base_domain: `kasbah.example` when `acme.kasbah.example` names the tenant `acme`.
        path: The path variable `tenant`.

    Raises:
        TenantConflictError: one of them is repeated, or two of them disagree.
        InvalidRequestError: one of them is empty.
    """
    if not headers and not parameters and base_domain is None:
        return path  # nearly every request
    for what, values in (
        (f"the header `{TENANT_HEADER}`", headers),
        (f"the parameter `{TENANT_PARAMETER}`", parameters),
    ):
        if len(values) > 1:
            raise TenantConflictError(f"{what} is repeated")
        if values and not values[0]:
            raise InvalidRequestError(f"{what} is empty")
    names = {*headers, *parameters}
    if path is not None:
        names.add(path)
    if base_domain is not None:
        if len(host) > 1:
            raise TenantConflictError("the header `Host` is repeated")
        subdomain = subdomain_of(host[0] if host else "", base_domain)
        if subdomain is not None:
            names.add(subdomain)
    if len(names) > 1:
        raise TenantConflictError("the request names more than one tenant")
    return names.pop() if names else None


def subdomain_of(host: str, base_domain: str) -> str | None:
    """Return what stands before `base_domain` in a Host header, or None; DNS names have no case."""
    name, _, port = host.rpartition(":")
    if not port.isdigit() or not name:
        name = host
    name = name.rstrip(".").lower()
    suffix = "." + base_domain.lower()
    return name[: -len(suffix)] if name.endswith(suffix) and len(name) > len(suffix) else None


def own_tenant_of(caller: Caller, name: str | None) -> TenantId:
    """Return the tenant of the caller's own, or the platform.

    Raises:
        OtherTenantError: the request names another one, whether that exists or not.
    """
    if name is not None and name != caller.home_slug:
        raise OtherTenantError("this is about your own tenant, and the request names another")
    return caller.home


async def tenant_of(
    caller: Caller,
    name: str | None,
    directory: TenantDirectory,
    *,
    base: bool = False,
    home: bool = False,
    gone: bool = False,
) -> TenantId:
    """Return the tenant that a request acts on.

    Args:
        caller: Who asks.
        name: What `named_tenant` found.
        directory: Where a platform caller's tenant is looked up.
        base: Whether `_base` may be named.
        home: Whether `_platform` may be named.
        gone: Whether a deleted tenant may be named.

    Raises:
        OtherTenantError: a tenant-bound key with another tenant's name, whether that exists or not.
        TenantRequiredError: a platform key that names none.
        NoSuchTenantError: a platform key that names an unknown or deleted one.
    """
    if caller.tenant_id is not None:
        # SECURITY: decided without asking whether the other name exists, so the answer cannot tell.
        if name is not None and name != caller.slug:
            raise OtherTenantError("your key is bound to another tenant")
        return caller.tenant_id
    if name is None:
        raise TenantRequiredError("name a tenant: path, `X-Tenant-ID`, `tenant` or subdomain")
    # A name that no tenant can have (with a NUL, say) is not worth a question, which PostgreSQL might not even take.
    known = SLUG_PATTERN.match(name) is not None or name in {BASE_SLUG, PLATFORM_SLUG}
    head = await directory.find_tenant_by_slug(name) if known else None
    if head is None or (head.status is TenantStatus.DELETED and not gone):
        raise NoSuchTenantError
    if (head.tenant_id == BASE_TENANT_ID and not base) or (head.tenant_id == PLATFORM_TENANT_ID and not home):
        raise NoSuchTenantError
    return head.tenant_id
