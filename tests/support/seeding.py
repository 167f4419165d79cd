"""Fills a migrated database without a server: model, tenants, policies, keys."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from authn.api_keys import SCOPES
from authz.policy_files.directory import read_directory
from authz.ports import StoredModel
from authz.rules import Owner, Row
from authz.storage_write import PostgresPolicyWriter
from service.bootstrap import Bootstrap
from tenancy.create_tenant import create_tenant
from tenancy.database import open_engine, open_sessions
from tenancy.ids import BASE_TENANT_ID, PLATFORM_TENANT_ID, TenantId
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tests.support.paths import ROOT
from tests.support.servers import patient

META = ChangeMeta("test")


@dataclass
class Seeded:
    """What was made."""

    platform_key: str = ""
    tenants: dict[str, TenantId] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)


async def seed(database_url: str, tenants: dict[str, Sequence[Row]], base: Sequence[Row] = ()) -> Seeded:
    """Store `policies/model.conf`, the base rows, and each tenant with its rows (as the API's) and a key of all scopes."""
    made = Seeded()
    engine = open_engine(database_url, patient())
    try:
        sessions = open_sessions(engine)
        writer = PostgresPolicyWriter(sessions)
        bootstrap = Bootstrap(engine)
        text = read_directory(ROOT / "policies").model_text
        await writer.set_model(StoredModel.of(text), meta=META)
        await writer.change_rows(BASE_TENANT_ID, add=base, remove=(), owner=Owner.API, meta=META)
        made.platform_key = await bootstrap.create_key(PLATFORM_TENANT_ID, "platform", scopes=SCOPES)
        for slug, rows in tenants.items():
            head = await create_tenant(slug, slug, meta=META, tenants=TenantStore(sessions))
            made.tenants[slug] = head.tenant_id
            await writer.change_rows(head.tenant_id, add=rows, remove=(), owner=Owner.API, meta=META)
            made.keys[slug] = await bootstrap.create_key(head.tenant_id, slug, scopes=SCOPES)
    finally:
        await engine.dispose()
    return made
