"""Keys are rotated while people sign in with codes: every secret is sealed anew, and no code is refused for it."""

import asyncio

import pytest

from authn.enrolment_codes import EnrolmentCode, issue_enrolment_code, spend_enrolment_code
from authn.factors import FactorProven
from authn.prove_totp import TotpProofs
from authn.user_rows import lock_user
from tenancy.encrypted_columns import ENCRYPTED_COLUMNS, ENROLMENT_CODES, TOTP_SECRETS
from tenancy.key_rotation import RotationKind, RotationPhase
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.accounts import Accounts
from tests.support.factors import Phone, bind_phone, waiting
from tests.support.sealed_things import NEW, OLD, SealingNode

META = ChangeMeta("key:test", reason="because")
PEOPLE = 12

pytestmark = pytest.mark.integration


async def test_a_rotation_goes_on_under_people_who_sign_in(store, acme):
    """All prove a code before, during and after; afterwards no secret is under an old key, mailed codes among them."""
    assert {TOTP_SECRETS, ENROLMENT_CODES} <= {*ENCRYPTED_COLUMNS}
    before, during, ahead = (
        SealingNode(store.sessions, keks, columns=ENCRYPTED_COLUMNS, grace=1)
        for keks in ((OLD,), (OLD, NEW), (NEW, OLD))
    )
    accounts = Accounts(store.sessions, acme.tenant_id)
    people = [await accounts.add(f"person{number}") for number in range(PEOPLE)]
    phones: list[Phone] = [await bind_phone(store.sessions, before.ring, acme.tenant_id, one.id) for one in people]
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        held = await lock_user(work, people[0].id)
        mailed = await issue_enrolment_code(work, before.ring, held)
    assert isinstance(mailed, EnrolmentCode)

    async def prove(node: SealingNode) -> list[object]:
        proofs = TotpProofs(store.sessions, node.ring)
        outcomes = [
            await proofs.prove(waiting(acme.tenant_id, one.id), phone.code(), meta=META)
            for one, phone in zip(people, phones, strict=True)
        ]
        with store.owner() as owner:  # as if the next time were half a minute later
            owner.execute("UPDATE authenticators SET last_step = NULL")
        return outcomes

    assert all(isinstance(outcome, FactorProven) for outcome in await prove(before))
    await ahead.rotator.store.start(RotationKind.ALL, ahead.preferred, meta=META)
    _, meanwhile = await asyncio.gather(ahead.rotator.run(), prove(during))
    assert all(isinstance(outcome, FactorProven) for outcome in meanwhile)
    assert (await ahead.rotator.store.find_last()).phase is RotationPhase.DONE
    assert all(isinstance(outcome, FactorProven) for outcome in await prove(ahead))
    with store.owner() as owner:
        for table, column in (("authenticators", "secret"), ("enrolment_codes", "sealed")):
            left = owner.execute(
                f"SELECT count(*) FROM {table} t JOIN data_keys k ON k.key_id = t.{column}_key "
                "WHERE k.superseded_at IS NOT NULL"
            ).fetchone()
            assert left == (0,), table
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        held = await lock_user(work, people[0].id)
        assert await spend_enrolment_code(work, ahead.ring, held, mailed.code)
