"""Opens what seals and opens: kept answers, page tokens, and the key ring with what rotates its keys."""

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

from aiohttp import web

from service.answer_seal import AnswerSeal
from service.app import Part
from service.jobs import Job
from service.key_encryption import opened_keys
from service.keys import ANSWER_SEAL, JOBS, KEY_RING, KEY_ROTATOR, METRICS, PAGE_TOKENS, SESSIONS
from service.page_tokens import PageTokens
from service.settings import Settings
from tenancy.database import open_engine, open_sessions
from tenancy.errors import DatabaseUnavailableError
from tenancy.key_maker import KeyMaker
from tenancy.key_nodes import ANNOUNCE_SECONDS, KeyNode
from tenancy.key_ring import KeyRing
from tenancy.rotate_keys import KeyRotator

ROTATION_SECONDS = 2.0


def sealing(settings: Settings) -> Part:
    """Return the part."""

    async def part(app: web.Application) -> AsyncIterator[None]:
        secret = settings.secret_key.get_secret_value().encode()
        app[ANSWER_SEAL] = AnswerSeal(secret)
        app[PAGE_TOKENS] = PageTokens(
            (settings.http.page_token_secret or settings.secret_key).get_secret_value().encode()
        )
        held = settings.encryption
        # INVARIANT: keys are made while their first user holds a connection; were theirs of the same pool, as many
        # users as it has connections would all wait for one more.
        own = open_engine(
            settings.database_url.get_secret_value(), replace(settings.database, pool_size=1, max_overflow=1)
        )
        async with opened_keys(held, secret) as keks:
            ring = app[KEY_RING] = KeyRing(
                open_sessions(own), keks, cache_keys=held.cache_keys, cache_seconds=held.cache_seconds
            )
            app[METRICS].add_source(ring.totals)
            rotator = app[KEY_ROTATOR] = KeyRotator(app[SESSIONS], ring, KeyMaker(app[SESSIONS], keks))
            app[JOBS].add(Job("key-rotation", ROTATION_SECONDS, rotator.run))
            node = KeyNode(app[SESSIONS], keks)
            app[JOBS].add(Job("key-nodes", ANNOUNCE_SECONDS, node.announce))
            yield
            with suppress(DatabaseUnavailableError):
                await node.leave()
        await own.dispose()

    return part
