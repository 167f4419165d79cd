"""`/v1/encryption`: which keys encrypt what is stored, and their rotation; for platform keys."""

from dataclasses import asdict
from typing import Any

import msgspec
from aiohttp import web

from service.http.admin import json_answer, meta_of
from service.http.idempotency import OnceFor, idempotent
from service.http.policy_wire import read_struct
from service.keys import KEY_ROTATOR
from service.routes import Needs, Route
from tenancy.key_rotation import Rotation, RotationKind


class NewRotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rotation to begin."""

    kind: RotationKind = RotationKind.ALL
    reason: str | None = None


_decoder = msgspec.json.Decoder(NewRotation)


async def list_keys(request: web.Request) -> web.Response:
    """GET the key-encryption keys: those this node knows, and those that data keys are wrapped by."""
    rotator = request.app[KEY_ROTATOR]
    active, found = await rotator.store.counts()
    counts = {count.kek_id: count for count in found}
    known = rotator.keks.marks
    nodes, knowing = await rotator.store.nodes(known)
    keys = []
    for key_id in dict.fromkeys((*known, *counts)):
        count = counts.get(key_id)
        numbers = (0, 0, 0) if count is None else (count.data_keys, count.superseded, count.tenants)
        keys.append(
            {
                "id": key_id,
                "known": key_id in known,
                "active": key_id == active,
                "preferred": key_id == rotator.keks.preferred,
                "nodes": knowing.get(key_id, 0),
                "data_keys": numbers[0],
                "superseded": numbers[1],
                "tenants": numbers[2],
            }
        )
    return json_answer({"nodes": nodes, "keys": keys})


async def read_rotation(request: web.Request) -> web.Response:
    """GET the rotation that is under way, or the last one; null when there never was one."""
    rotation = await request.app[KEY_ROTATOR].store.find_last()
    return json_answer({"rotation": None if rotation is None else _shown(rotation)})


@idempotent
async def begin_rotation(request: web.Request, body: bytes, once_for: OnceFor) -> web.Response:
    """POST a rotation: it goes on by itself, on any node, whatever becomes of this one."""
    wanted = read_struct(body, _decoder)
    rotator = request.app[KEY_ROTATOR]
    rotation = await rotator.store.start(
        wanted.kind,
        rotator.keks.get(rotator.keks.preferred),
        meta=meta_of(request, wanted.reason),
        once=once_for(_begun),
    )
    return _begun(rotation)


def _begun(rotation: Rotation) -> web.Response:
    return json_answer({"rotation": _shown(rotation)}, status=201)


def _shown(rotation: Rotation) -> dict[str, Any]:
    return {
        "id": rotation.id,
        "kind": rotation.kind,
        "key": rotation.kek_id,
        "phase": rotation.phase,
        "tenants": rotation.tenants,
        "started_at": rotation.started_at,
        "started_by": rotation.started_by,
        "finished_at": rotation.finished_at,
    } | asdict(rotation.tally)


_READ = Needs("encryption:read", "kasbah:encryption", "read", tenant=False, platform=True)
_ROTATE = Needs("encryption:write", "kasbah:encryption", "rotate", tenant=False, platform=True)

ROUTES: tuple[Route, ...] = (
    Route("GET", "/v1/encryption/keys", list_keys, _READ, seconds=15),
    Route("GET", "/v1/encryption/rotation", read_rotation, _READ),
    Route("POST", "/v1/encryption/rotation", begin_rotation, _ROTATE, seconds=None),
)
