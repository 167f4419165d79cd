"""`Idempotency-Key`: a write that is sent twice acts once, whatever was lost in between."""

import asyncio
import secrets

import psycopg
import pytest

from authn import storage as key_storage
from service.answer_seal import AnswerSeal, KeptAnswer, SealedAnswerError
from service.http import key_writes
from tenancy.errors import DatabaseUnavailableError
from tenancy.ids import PLATFORM_TENANT_ID
from tenancy.once import RequestKey
from tests.support.administration import Service, link, rule

ONCE = {"Idempotency-Key": "abc"}

pytestmark = pytest.mark.integration


async def key_names(admin: Service) -> list[str]:
    """Return the names of all keys of `acme`."""
    return [key["name"] for key in (await admin.get("/v1/tenants/acme/keys")).json["keys"]]


async def test_a_creation_that_is_sent_twice_acts_once(admin: Service) -> None:
    """The same key repeats the whole answer, a token too; with another body it is refused."""
    first = await admin.post("/v1/tenants", {"slug": "acme"}, headers=ONCE)
    second = await admin.post("/v1/tenants", {"slug": "acme"}, headers=ONCE)
    assert (first.status, second.status, second.body) == (201, 201, first.body)
    for header in ("Location", "ETag", "Kasbah-Revision"):
        assert second.headers[header] == first.headers[header]
    other = await admin.post("/v1/tenants", {"slug": "beta"}, headers=ONCE)
    assert (other.status, other.problem) == (422, "idempotency-key-reused")
    refused = await admin.post("/v1/tenants", {"slug": "acme"}, headers={"Idempotency-Key": "def"})
    assert (refused.status, refused.problem) == (409, "slug-taken")
    assert (await admin.post("/v1/tenants", {"slug": "delta"}, headers={"Idempotency-Key": "d e"})).status == 400
    made = await admin.post("/v1/tenants/acme/keys", {"name": "k"}, headers=ONCE)
    repeated = await admin.post("/v1/tenants/acme/keys", {"name": "k"}, headers=ONCE)
    assert (made.status, repeated.status, repeated.body) == (201, 201, made.body)
    assert (await admin.get("/v1/keys/self", key=repeated.json["token"])).json["id"] == made.json["id"]
    assert (await key_names(admin)).count("k") == 1
    stranger = await admin.tenant("acme")
    own = await admin.post("/v1/tenants/acme/keys", {"name": "k"}, headers=ONCE, key=stranger)
    assert own.json["id"] != made.json["id"], "another caller's key is another key"


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/tenants", {"slug": "beta"}), ("/v1/tenants/acme/keys", {"name": "k"}), ("/v1/keys", {"name": "k"})],
)
async def test_equal_creations_at_once_make_one(admin: Service, path: str, body: dict) -> None:
    """Those that overlap wait for the first, and are answered as it was."""
    await admin.tenant("acme")
    answers = await asyncio.gather(*(admin.post(path, body, headers=ONCE) for _ in range(5)))
    assert {answer.status for answer in answers} == {201}
    assert len({answer.body for answer in answers}) == 1


async def test_a_key_whose_answer_was_lost_is_not_made_twice(admin: Service, monkeypatch) -> None:
    """What fails after the commit has happened: the repetition is told so, with the token."""
    await admin.tenant("acme")

    async def lost(*_: object) -> None:
        raise DatabaseUnavailableError("gone")

    with monkeypatch.context() as broken:
        broken.setattr(key_writes, "written", lost)
        assert (await admin.post("/v1/tenants/acme/keys", {"name": "k"}, headers=ONCE)).status == 503
    repeated = await admin.post("/v1/tenants/acme/keys", {"name": "k"}, headers=ONCE)
    assert repeated.status == 201
    assert (await admin.get("/v1/keys/self", key=repeated.json["token"])).json["id"] == repeated.json["id"]
    assert (await key_names(admin)).count("k") == 1


async def test_a_creation_that_broke_off_before_its_commit_may_be_sent_again(admin: Service, monkeypatch) -> None:
    """Neither the key nor the record of an answer is there; nothing stands in the way."""
    await admin.tenant("acme")

    async def lost(*_: object) -> None:
        raise DatabaseUnavailableError("gone")

    with monkeypatch.context() as broken:
        broken.setattr(key_storage, "keep", lost)
        assert (await admin.post("/v1/tenants/acme/keys", {"name": "k"}, headers=ONCE)).status == 503
    assert "k" not in await key_names(admin)
    assert (await admin.post("/v1/tenants/acme/keys", {"name": "k"}, headers=ONCE)).status == 201
    assert (await key_names(admin)).count("k") == 1


async def test_a_refusal_is_not_kept(admin: Service) -> None:
    """What was refused may become acceptable."""
    await admin.tenant("acme")
    wrong = await admin.post("/v1/tenants/acme/rules", {"add": [link("user:a", "role:r")]}, headers=ONCE)
    assert wrong.status == 400
    assert (await admin.post("/v1/tenants/acme/rules", {"add": []}, headers=ONCE)).status == 200


async def test_a_batch_that_is_sent_twice_is_answered_alike(admin: Service) -> None:
    """Also when its precondition no longer holds because of itself, or another undid it since."""
    own = await admin.tenant("acme")
    revision = (await admin.get("/v1/tenants/acme", key=own)).json["revision"]
    batch = {"add": [rule("role:a", "doc:1")]}
    once = ONCE | {"If-Match": f'"{revision}"'}
    first = await admin.post("/v1/tenants/acme/rules", batch, key=own, headers=once)
    assert (first.status, first.json["added"]) == (200, 1)
    await admin.post("/v1/tenants/acme/rules", {"remove": batch["add"]}, key=own)
    second = await admin.post("/v1/tenants/acme/rules", batch, key=own, headers=once)
    assert (second.status, second.body, second.headers["ETag"]) == (200, first.body, first.headers["ETag"])
    assert (await admin.get("/v1/tenants/acme/rules", key=own)).json["rules"] == []
    moved = await admin.post("/v1/tenants/acme/rules", batch, key=own, headers=ONCE | {"If-Match": '"1"'})
    assert (moved.status, moved.problem) == (422, "idempotency-key-reused")
    for path, row in (
        ("memberships", link("user:a", "role:r")),
        ("entities", {"type": "entity", "kind": "subject", "ref": "user:a", "properties": {}}),
    ):
        body = {"add": [row]}
        answers = [await admin.post(f"/v1/tenants/acme/{path}", body, key=own, headers=ONCE) for _ in range(2)]
        assert [(answer.status, answer.json["added"]) for answer in answers] == [(200, 1)] * 2


async def test_answers_are_kept_sealed_and_for_a_day(admin: Service, own_database_url: str) -> None:
    """No token is in the table; after a day the key is as good as new; another secret opens nothing."""
    await admin.tenant("acme")
    made = await admin.post("/v1/tenants/acme/keys", {"name": "k"}, headers=ONCE)
    with psycopg.connect(own_database_url, autocommit=True) as owner:
        (sealed,) = owner.execute("SELECT sealed FROM kept_answers").fetchone()
        assert made.json["token"].encode() not in sealed
        assert made.json["id"].encode() not in sealed
        owner.execute("UPDATE kept_answers SET created_at = created_at - interval '25 hours'")
        again = await admin.post("/v1/tenants/acme/keys", {"name": "k"}, headers=ONCE)
        assert (again.status, again.json["id"] != made.json["id"]) == (201, True)
        assert owner.execute("SELECT count(*) FROM kept_answers").fetchone() == (1,)
        owner.execute("UPDATE kept_answers SET sealed = %s", (sealed,))
    assert (await admin.post("/v1/tenants/acme/keys", {"name": "k"}, headers=ONCE)).json == made.json
    admin.seal._cipher = AnswerSeal(secrets.token_bytes(32))._cipher
    unreadable = await admin.post("/v1/tenants/acme/keys", {"name": "k"}, headers=ONCE)
    assert (unreadable.status, unreadable.problem) == (409, "idempotency-conflict")


def test_a_sealed_answer_belongs_to_its_request() -> None:
    """Moved to another route, caller, body or tenant, cut, or opened with another secret, it is refused."""
    key = RequestKey(PLATFORM_TENANT_ID, "POST /v1/keys", b"c" * 32, b"r" * 32)
    seal = AnswerSeal(b"s" * 32)
    answer = KeptAnswer(201, {"ETag": '"1"'}, b"{}")
    sealed = seal.seal(answer, key)
    assert seal.open(sealed, key) == answer
    assert seal.seal(answer, key) != sealed
    others = [
        RequestKey(PLATFORM_TENANT_ID, "POST /v1/tenants", b"c" * 32, b"r" * 32),
        RequestKey(PLATFORM_TENANT_ID, "POST /v1/keys", b"d" * 32, b"r" * 32),
        RequestKey(PLATFORM_TENANT_ID, "POST /v1/keys", b"c" * 32, b"q" * 32),
    ]
    for other in others:
        with pytest.raises(SealedAnswerError):
            seal.open(sealed, other)
    for damaged in (b"", sealed[:5], sealed[:-1], sealed + b"x"):
        with pytest.raises(SealedAnswerError):
            seal.open(damaged, key)
    with pytest.raises(SealedAnswerError):
        AnswerSeal(b"t" * 32).open(sealed, key)
