"""Credentials that are no text: refused like any other wrong one, on every route that takes one."""

import pytest
from pydantic import SecretStr

from service.http_settings import HttpSettings
from tests.support.edge import Edge


@pytest.mark.parametrize("token", ["\udcff\udcfe", "kasbah_", "é", "x" * 4000])
@pytest.mark.parametrize("path", ["/metrics", "/v1/keys/self"])
async def test_a_token_that_is_no_text_is_not_authenticated(token: str, path: str) -> None:
    """Header values may hold any bytes; comparing them with a secret must not fail on some."""
    async with Edge(HttpSettings(metrics_token=SecretStr("m" * 32))).serving() as edge:
        assert (await edge.raw_get(path, f"Bearer {token}")).startswith(b"HTTP/1.1 401 ")
