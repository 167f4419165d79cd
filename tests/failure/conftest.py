"""A whole installation for the tests of a module, mended between them."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import psycopg
import pytest

from authn.sessions import NewSession
from tenancy.ids import TenantId
from tests.support.installation import Installation, Tenant, running_installation
from tests.support.running_service import Answer
from tests.support.sessions import sign_in_outside


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Two nodes on a PostgreSQL and a Valkey of this module's own."""
    with running_installation(tmp_path_factory.mktemp("installation")) as made:
        yield made


@pytest.fixture
def installation(running: Installation) -> Iterator[Installation]:
    """The module's installation, whole before and after the test: nodes are not restarted, they heal."""
    yield running
    running.mend()


@pytest.fixture
def tenant(installation: Installation) -> Tenant:
    """A tenant of this test alone, held by both nodes."""
    made = installation.new_tenant()
    installation.warm(made)
    return made


@dataclass
class Person:
    """An account of a tenant of the installation."""

    installation: Installation
    slug: str
    tenant_id: TenantId
    user_id: UUID

    def signs_in(self, **settings: int) -> NewSession:
        """Sign in beside the nodes; `settings` are other lifetimes than the tenant's."""
        made = self.installation
        secret = made.first.environment["KASBAH_SECRET_KEY"]
        coroutine = sign_in_outside(
            made.postgres.url, made.valkey.url, secret, self.tenant_id, self.user_id, **settings
        )
        return asyncio.run(coroutine)

    def administered(self, method: str, path: str, body: object = None) -> Answer:
        """Do something to the account through the first node; it must work."""
        made = self.installation
        answer = made.first.request(
            method, f"/v1/users/{self.user_id}{path}", body, key=made.platform_key, headers={"X-Tenant-ID": self.slug}
        )
        assert answer.status in {200, 204}, answer.body
        return answer


@pytest.fixture
def person(installation: Installation, tenant: Tenant) -> Person:
    """An account that both nodes follow."""
    made = installation.first.request(
        "POST", "/v1/users", {"username": "alice"}, key=installation.platform_key, headers={"X-Tenant-ID": tenant.slug}
    )
    assert made.status == 201, made.body
    with psycopg.connect(installation.postgres.url) as owner:
        ((tenant_id,),) = owner.execute("SELECT tenant_id FROM tenants WHERE slug = %s", [tenant.slug]).fetchall()
    return Person(installation, tenant.slug, tenant_id, UUID(made.json()["id"]))
