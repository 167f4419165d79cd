"""A keep-alive connection to a server, for what is asked one at a time."""

import contextlib
import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any


class Asker:
    """Sends JSON with one key, one request at a time; anything but a 2xx answer is an error of the benchmark."""

    def __init__(self, port: int, key: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> tuple[Any, Mapping[str, str]]:
        """Return the JSON value of the answer, and its headers."""
        return self.post_bytes(path, json.dumps(body).encode(), headers)

    def post_bytes(
        self, path: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> tuple[Any, Mapping[str, str]]:
        """As `post`, with a body that is JSON already."""
        self._connection.request("POST", path, body, self._headers | dict(headers or {}))
        response = self._connection.getresponse()
        data = response.read()
        if not 200 <= response.status < 300:
            raise RuntimeError(f"{path} answered {response.status}: {data[:500]!r}")
        return json.loads(data), dict(response.headers.items())

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


@contextlib.contextmanager
def asking(port: int, key: str) -> Iterator[Asker]:
    """Yield a connection and close it at the end."""
    asker = Asker(port, key)
    try:
        yield asker
    finally:
        asker.close()
