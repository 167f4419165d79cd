"""`/v1/model`: the Casbin model that all tenants are decided by. Written by the platform, not by tenants."""

from dataclasses import replace
from typing import Annotated

import msgspec
from aiohttp import web

from authz.ports import StoredModel
from authz.served_model import ServedModel
from service.http.admin import ADMINISTRATION, heavy, json_answer, meta_of, written
from service.http.policy_wire import read_struct
from service.request_body import read_json_body
from service.rights import require_everything
from tenancy.ids import BASE_TENANT_ID


class NewModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Text of a `model.conf`; `replaces` is the digest of the model that the caller saw."""

    text: Annotated[str, msgspec.Meta(min_length=1, max_length=65536)]
    replaces: str | None = None
    reason: str | None = None
    git_commit: str | None = None


class PlannedModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Text of a `model.conf` that might be set."""

    text: Annotated[str, msgspec.Meta(min_length=1, max_length=65536)]


_decoder = msgspec.json.Decoder(NewModel)
_plan_decoder = msgspec.json.Decoder(PlannedModel)


def decide_alike(one: ServedModel, other: ServedModel) -> bool:
    """Whether two models give every policy the same answers, as far as their indexes say it all."""
    same = replace(one, digest="", notes=()) == replace(other, digest="", notes=())
    return one.digest == other.digest or (same and one.residual is None)


async def read_model(request: web.Request) -> web.Response:
    """GET the model."""
    model = await request.app[ADMINISTRATION].writer.get_model()
    return json_answer({"text": model.text, "digest": model.digest})


async def plan_model(request: web.Request) -> web.Response:
    """POST a model; answers whether setting it would change anything, and refuses what setting it would refuse."""
    admin = request.app[ADMINISTRATION]
    model = StoredModel.of(read_struct(await read_json_body(request), _plan_decoder).text)
    await heavy(request, lambda: admin.models.get(model))
    await admin.writer.require_model(model)
    current = await admin.writer.get_model()
    return json_answer({"digest": model.digest, "replaces": current.digest, "pending": model != current})


async def replace_model(request: web.Request) -> web.Response:
    """PUT another model; raises every tenant's revisions. One that is not fit to be served is refused."""
    admin = request.app[ADMINISTRATION]
    wanted = read_struct(await read_json_body(request), _decoder)
    model = StoredModel.of(wanted.text)
    meta = meta_of(request, wanted.reason, wanted.git_commit)
    await heavy(request, lambda: admin.models.get(model))
    # SECURITY: another model can let everybody have everything.
    await require_everything(request)
    await admin.writer.set_model(model, meta=meta, replaces=wanted.replaces)
    base = await admin.tenants.find(BASE_TENANT_ID)
    if base is not None:
        await written(request, base.head)
    return json_answer({"text": model.text, "digest": model.digest})
