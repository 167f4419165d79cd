"""Sessions as credentials: what they are good for, and what ends them."""

import pytest

from authn.sessions import Acr
from tests.support.people import PostOffice
from tests.support.sessions import signed_in

pytestmark = pytest.mark.integration

ME = "/v1/keys/self"


async def test_a_session_is_a_credential(post: PostOffice):
    """Whoever signed in calls as the account, by a token alone."""
    user = await post.person("alice")
    new = await signed_in(post.app, post.tenants["acme"], user.id, Acr.AAL2)
    answer = await post.get(ME, key=new.token)
    assert (answer.status, answer.json["subject"]) == (200, user.ref)
    assert (await post.get(ME, key=f"{new.token[:-1]}{'A' if new.token[-1] != 'A' else 'B'}")).status == 401
