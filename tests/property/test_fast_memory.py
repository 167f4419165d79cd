"""What the fast way remembers of heads changes no answer, under the histories and outages of the node's own property."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from authn.api_keys import hash_token
from authz.errors import StaleError, StorageUnavailableError
from authz.node import Node
from authz.snapshot import build_snapshot
from service.callers import Callers, FoundApiKey
from service.cross_check import Sampler
from service.decision_log import DecisionLog
from service.edge_errors import NotAuthenticatedError
from service.fast_answers import EVALUATION, FastPath
from service.fast_heads import PlainHead
from service.http_settings import DecisionLogSettings
from service.metrics import Metrics
from tenancy.ids import TenantId
from tests.property.test_node_consistency import RECORDS, SETTINGS, USERS, Run
from tests.support.edge import question
from tests.support.policy_world import World, loop_time, run_virtual

BODIES = {(user, record): json.dumps(question(user, "read", record)).encode() for user in USERS for record in RECORDS}


class Keys:
    """One key for each tenant, with all that it was before."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tokens: dict[TenantId, str] = {}
        self.ended: dict[str, float] = {}

    def renew(self, tenant: TenantId) -> None:
        """Revoke a tenant's key, as one revision of the tenant, and make another one."""
        if tenant in self.tokens:
            self.ended[self.tokens[tenant]] = loop_time()
            self.world.commit(tenant, keys=True)
        self.tokens[tenant] = f"kasbah_00000000_{uuid4().hex}{'A' * 11}"

    async def find_by_hash(self, key_hash: bytes) -> FoundApiKey | None:
        for tenant, token in self.tokens.items():
            if hash_token(token) == key_hash:
                head = self.world.current(tenant).head
                return FoundApiKey(uuid4(), "00000000", frozenset({"decision:check"}), None, head)
        return None


class FastRun(Run):
    """The same run, asked the fast way: by heads that are remembered from one question to the next."""

    def __init__(self, seed: int, *, outages: bool) -> None:
        super().__init__(seed, outages=outages)
        self.build = build_snapshot
        self.keys = Keys(self.world)

    def others(self) -> list[Coroutine[Any, Any, None]]:
        for tenant in self.tenants:
            self.keys.renew(tenant)
        return [self.renewer()]

    async def renewer(self) -> None:
        """Revoke keys now and then."""
        while True:
            await asyncio.sleep(self.rng.random() * 4)
            self.keys.renew(self.rng.choice(self.tenants))

    async def asker(self) -> None:
        """Hold each remembered answer against one that nothing was remembered for, and against the history."""
        node = self.rng.choice(self.nodes)
        callers = Callers(self.keys, node, monotonic=loop_time)
        log = DecisionLog(DecisionLogSettings())
        path = FastPath(node, callers, metrics=Metrics(), log=log, sampler=Sampler(None, 0))
        heads: dict[str, PlainHead] = {}
        while True:
            await asyncio.sleep(self.rng.random() ** 2 * self.ask_pause)
            tenant = self.rng.choice(self.tenants)
            token = self.keys.tokens[tenant]
            if self.rng.random() < 0.3:
                await self.bring_up(node, callers, tenant, token)
            for known, head in list(heads.items()) or [(token, plain(token))]:
                user, record = pair = self.rng.choice(list(BODIES))
                held, anew = (content(path.answer(each, "id", BODIES[pair])) for each in (head, plain(known)))
                assert held == anew, "an answer from memory"
                if held is None:
                    self.refused += 1
                    continue
                self.decisions += 1
                said = json.loads(held)
                revision = said["context"]["kasbah"]["revision"]
                version = self.world.at(head.state.head.tenant_id, revision)
                assert said["decision"] is version.allows(user, record), "an answer that its revision never gave"
                longest = loop_time() - SETTINGS.max_staleness.total_seconds()
                assert self.world.superseded_at(version.head.tenant_id, revision) >= longest, "stale"
                assert self.keys.ended.get(known, loop_time()) >= longest, "a revoked key"
            heads.setdefault(token, plain(token))

    async def bring_up(self, node: Node, callers: Callers, tenant: TenantId, token: str) -> None:
        """Do what the ordinary way does before it answers."""
        try:
            await callers.authenticate(token)
            await node.load(tenant, self.rng.sample(USERS, 3), [])
        except (StaleError, StorageUnavailableError, NotAuthenticatedError):
            self.refused += 1


def content(answer: bytes | None) -> bytes | None:
    return None if answer is None else answer.partition(b"\r\n\r\n")[2]


def plain(token: str) -> PlainHead:
    return PlainHead(EVALUATION, token.encode(), None, None, 0)


@pytest.mark.parametrize("outages", [False, True])
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow], phases=[Phase.generate])
@given(seed=st.integers(0, 2**32))
def test_what_is_remembered_of_a_head_changes_no_answer(outages: bool, seed: int):
    """Who calls and which state holds is asked anew whenever it may have changed, and no later than it ends."""
    run = FastRun(seed, outages=outages)
    run_virtual(run.go)
    assert run.decisions > 0
