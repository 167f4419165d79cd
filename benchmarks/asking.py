"""A keep-alive connection to a server, for what is asked one at a time."""

import contextlib
import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit


class RefusedError(Exception):
    """An answer that is no 2xx."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class Asker:
    """Sends JSON with one key, one request at a time."""

    def __init__(self, base_url: str, key: str) -> None:
        parts = urlsplit(base_url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=120)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> tuple[Any, Mapping[str, str]]:
        """Return the JSON value of the answer, and its headers; raises `RefusedError`."""
        return self.post_bytes(path, json.dumps(body).encode(), headers)

    def post_bytes(
        self, path: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> tuple[Any, Mapping[str, str]]:
        """As `post`, with a body that is JSON already."""
        return self._exchange("POST", path, body, headers)

    def get(self, path: str) -> Any:
        """Return the JSON value of the answer; raises `RefusedError`."""
        return self._exchange("GET", path, None, None)[0]

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None
    ) -> tuple[Any, Mapping[str, str]]:
        self._connection.request(method, path, body, self._headers | dict(headers or {}))
        response = self._connection.getresponse()
        data = response.read()
        if not 200 <= response.status < 300:
            raise RefusedError(response.status, f"{path} answered {data[:500]!r}")
        return json.loads(data), dict(response.headers.items())

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


@contextlib.contextmanager
def asking(base_url: str, key: str) -> Iterator[Asker]:
    """Yield a connection and close it at the end."""
    asker = Asker(base_url, key)
    try:
        yield asker
    finally:
        asker.close()
