"""Challenges in Valkey: opaque to their holder, hashed and under a MAC, gone after minutes.

One key holds one challenge: what was proven, how many proofs were tried, and what a factor keeps. Each step that must
happen once is one script on that key.
"""

import hmac
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec

from authn.challenges import CHALLENGE_BYTES, CHALLENGE_PREFIX, MAX_TRIES, Challenge
from authn.errors import ChallengeExpiredError
from authn.volatile_values import VolatileValues, token_hash

_OPEN = """
redis.call('HSET', KEYS[1], 'value', ARGV[1], 'tries', 0)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
# A key that is gone must not come back with a count and nothing else, so its being there is asked in the same step.
_TAKE = """
if redis.call('HEXISTS', KEYS[1], 'value') == 0 then return 0 end
if redis.call('HINCRBY', KEYS[1], 'tries', 1) > tonumber(ARGV[1]) then return 0 end
return 1
"""
_KEEP = """
if redis.call('HEXISTS', KEYS[1], 'value') == 0 then return 0 end
redis.call('HSET', KEYS[1], 'data', ARGV[1])
return 1
"""

_decoder = msgspec.msgpack.Decoder(Challenge)
_data_decoder = msgspec.msgpack.Decoder(dict[str, Any])
_encoder = msgspec.msgpack.Encoder()


class ChallengeStore:
    """Challenges of all tenants. Every method raises `VolatileStoreUnavailableError` when Valkey does not answer."""

    def __init__(self, values: VolatileValues, now: Callable[[], datetime]) -> None:
        """Keep where values live, and the database's time as this node follows it."""
        self._values = values
        self._now = now

    async def open(self, challenge: Challenge) -> str:
        """Store a challenge; return the token that is its holder's only proof."""
        token = CHALLENGE_PREFIX + urlsafe_b64encode(secrets.token_bytes(CHALLENGE_BYTES)).rstrip(b"=").decode()
        name = self._name(token)
        life = int((challenge.expires_at - challenge.issued_at).total_seconds() * 1000)
        await self._values.run(_OPEN, name, self._values.seal(name, _encoder.encode(challenge)), life)
        return token

    async def find(self, token: str, client: bytes, *, named: str | None = None) -> Challenge:
        """Return a challenge that takes proofs from this client, who may name its tenant besides.

        Raises:
            ChallengeExpiredError: unknown, expired, finished, of another client or tenant, or tried too often; alike.
        """
        name = self._name(token)
        fields = ["value", "tries", "data"]
        found: list[Any] = await self._values.call(lambda: self._values.client.hmget(name, fields))
        value, tries, data = found
        payload = self._values.unseal(name, value)
        if payload is None or tries is None:
            raise ChallengeExpiredError
        try:
            challenge = _decoder.decode(payload)
        except msgspec.DecodeError:  # of a node of another version
            raise ChallengeExpiredError from None
        same = hmac.compare_digest(challenge.client, client) and named in {None, challenge.slug}
        if not same or self._now() >= challenge.expires_at or _number(tries) >= MAX_TRIES:
            raise ChallengeExpiredError
        kept = self._values.unseal(_data_place(name), data)
        return challenge if kept is None else replace(challenge, data=_data_decoder.decode(kept))

    async def take_try(self, token: str) -> bool:
        """Count a proof before it is judged; whether the challenge takes it."""
        return bool(await self._values.run(_TAKE, self._name(token), MAX_TRIES))

    async def keep(self, token: str, data: Mapping[str, Any]) -> None:
        """Keep what a factor needs at its next request; raises `ChallengeExpiredError` when the challenge is gone."""
        name = self._name(token)
        if not await self._values.run(_KEEP, name, self._values.seal(_data_place(name), _encoder.encode(dict(data)))):
            raise ChallengeExpiredError

    async def finish(self, token: str) -> bool:
        """End a challenge; true for exactly one of those who do, whatever they ask at once."""
        name = self._name(token)
        return await self._values.call(lambda: self._values.client.unlink(name)) == 1

    def _name(self, token: str) -> str:
        return self._values.name("challenge", token_hash(token).hex())


def _data_place(name: str) -> str:
    """SECURITY: what a factor keeps is never taken for a challenge, nor the other way round."""
    return f"{name}:data"


def _number(tries: bytes) -> int:
    """Anybody who writes to Valkey may have written this; what is no number counts as too many."""
    return int(tries) if tries.isdigit() else MAX_TRIES
