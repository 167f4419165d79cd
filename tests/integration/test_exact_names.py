"""What goes into PostgreSQL comes out of it, code point by code point, and matches nothing else."""

import json
import unicodedata

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from authz.request import CONTROL_PATTERN, MAX_REF_LENGTH, Ref
from authz.row_codec import canonical_json, row_from_json, row_to_json
from authz.rules import Effect, EntityKind, Owner, RoleLink, Rule, Source, StoredEntity
from authz.storage import PostgresPolicyReader
from authz.storage_write import PostgresPolicyWriter
from tenancy.create_tenant import create_tenant
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta

META = ChangeMeta("key:test")

HOSTILE = [
    "a,b",
    'a"b',
    "a'b",
    "a\\b",
    "a;DROP TABLE rules;--",
    "{a,b}",
    "%s",
    "%(x)s",
    ":x",
    "$1",
    "NULL",
    "null",
    " a",
    "a ",
    "a\u00a0",
    "\u212a",
    "K",
    "k",
    "\u0410",
    "A",
    "e\u0301",
    "\u00e9",
    "\ufb01",
    "fi",
    "a\u200bb",
    "ab",
    "\u202eab",
    "\U0001f469\u200d\U0001f4bb",
    "\ufeffa",
    "a%2fb",
    "a/b",
    "a\\x00b",
    "\\u0000",
    "(a)",
    "[a]",
    "#a",
    "-- a",
    "\uffff",
    "\U0010ffff",
    "\u00df",
    "ss",
    "SS",
    "\u0130",
    "i\u0307",
    "x" * (MAX_REF_LENGTH - 10),
    "\U0001f600" * (MAX_REF_LENGTH - 10),
    "x" * 256,
    "x" * 257,
    "x" * 255,
]

names = st.text(min_size=1, max_size=40).filter(lambda name: CONTROL_PATTERN.search(name) is None)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)

pytestmark = pytest.mark.integration


@pytest.fixture
async def tenant(store):
    """Return a tenant's id, a writer and a reader."""
    head = await create_tenant("acme", None, meta=META, tenants=TenantStore(store.sessions))
    return head.tenant_id, PostgresPolicyWriter(store.sessions), PostgresPolicyReader(store.sessions)


async def test_hostile_names_stay_what_they_are(tenant):
    """Each is found under its own name alone, has its own role, and comes back in rules, lists, history and candidates."""
    tenant_id, writer, reader = tenant
    refs = [Ref(f"user:{name}") for name in HOSTILE]
    assert len(set(refs)) == len(refs)
    rows = [RoleLink(ref, Ref(f"role:{place}")) for place, ref in enumerate(refs)]
    rows += [Rule(ref, f"record:{name}", name, condition=name) for ref, name in zip(refs, HOSTILE, strict=True)]
    rows += [StoredEntity(EntityKind.RESOURCE, Ref(f"record:{name}"), {name: name}) for name in HOSTILE]
    await writer.change_rows(tenant_id, add=rows, remove=[], owner=Owner.API, meta=META)
    found = await reader.lookup(tenant_id, refs, [Ref(f"record:{name}") for name in HOSTILE])
    for place, (ref, name) in enumerate(zip(refs, HOSTILE, strict=True)):
        alone = await reader.lookup(tenant_id, [ref], [])
        for answer in (found, alone):
            assert [grant.role for grant in answer.subjects[ref].grants] == [f"role:{place}"]
        assert found.resources[Ref(f"record:{name}")] == {name: name}
    rules = (await reader.load_rules(tenant_id)).rules
    assert [(rule.subject, rule.resource, rule.action, rule.condition) for rule in rules] == [
        (ref, f"record:{name}", name, name) for ref, name in zip(refs, HOSTILE, strict=True)
    ]
    assert await reader.list_subject_candidates(tenant_id, "user", "", 1000) == sorted(HOSTILE)
    items = await writer.list_change_items(tenant_id, 2, after=0, limit=1000)
    expected = sorted(row_to_json(row) for row in (await writer.current_rows(tenant_id)).links)
    assert sorted(row_to_json(item.row) for item in items if isinstance(item.row, RoleLink)) == expected
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        for name in HOSTILE:
            other = unicodedata.normalize(form, name)
            if other not in HOSTILE:
                looked = await reader.lookup(tenant_id, [Ref(f"user:{other}")], [])
                assert looked.subjects[Ref(f"user:{other}")].grants == ()
    await writer.change_rows(tenant_id, add=[], remove=[row.key for row in rows], owner=Owner.API, meta=META)
    rest = await writer.current_rows(tenant_id)
    assert (list(rest.rules), list(rest.links), list(rest.entities)) == ([], [], [])


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(name=names, properties=st.dictionaries(st.text(max_size=8), json_values, max_size=4))
@example(
    name="a",
    properties={"x": "\x00", "\ud800": "\udfff", "big": 10**40, "f": 1e300, "z": -0.0, "n": 1.0, "i": 1, "t": True},
)
async def test_any_name_and_any_attributes_survive(tenant, name, properties):
    """Attributes keep their JSON types exactly, NUL and half surrogates in strings included."""
    tenant_id, writer, reader = tenant
    ref = Ref(f"user:{name}")
    entity = StoredEntity(EntityKind.SUBJECT, ref, properties, Owner.API)
    await writer.change_rows(tenant_id, add=[entity], remove=[], owner=Owner.API, meta=META)
    found = (await reader.lookup(tenant_id, [ref], [])).subjects[ref].properties
    assert canonical_json(dict(found)) == canonical_json(properties)
    again = await writer.change_rows(tenant_id, add=[entity], remove=[], owner=Owner.API, meta=META)
    assert (again.added, again.removed) == (0, 0)


sources = st.none() | st.builds(Source, names, st.integers(1, 10**6))
moments = st.none() | st.datetimes(timezones=st.timezones())
rules = st.builds(
    Rule,
    names,
    names,
    names,
    st.sampled_from(Effect),
    st.none() | names,
    st.none() | st.integers(0, 2**31),
    source=sources,
)
links = st.builds(RoleLink, names, names, st.sampled_from(["g", "g2"]), moments, source=sources)
entities = st.builds(
    StoredEntity,
    st.sampled_from(EntityKind),
    names,
    st.dictionaries(st.text(max_size=8), json_values, max_size=4),
    source=sources,
)


@settings(deadline=None)
@given(row=rules | links | entities)
def test_history_keeps_rows_exactly(row):
    """A row and what history made of it are the same value."""
    text = row_to_json(row)
    back = row_from_json(json.loads(text))
    assert row_to_json(back) == text
    assert back.key == row.key
    if not isinstance(row, StoredEntity):
        assert back == row
