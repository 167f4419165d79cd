"""The HTTP client of the command line: speaks JSON, and says failures so that one can act on them."""

import asyncio
import io
import json
import re
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp

import service
from service.which_server import ClientError, Server, find_server

CONNECT_SECONDS = 5.0
REQUEST_SECONDS = 120.0
RETRY_SECONDS = 1.0

_SURROGATE = re.compile("[\ud800-\udfff]")
"""How Python holds bytes of the command line that are not UTF-8."""
_T = TypeVar("_T")


class UnreachableError(ClientError):
    """No answer, or an answer that is none of Kasbah's.

    `sent` says whether the server may have got the request, and done what it asks.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class UnavailableError(UnreachableError):
    """The server says that it cannot answer now."""


class RefusedError(ClientError):
    """The server understood and refused."""

    def __init__(self, status: int, slug: str, message: str, pointer: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.slug = slug
        self.pointer = pointer


class Client:
    """Requests to one server, on one connection pool. Use `connected`."""

    def __init__(self, server: Server, session: aiohttp.ClientSession) -> None:
        self.server = server
        self._session = session

    async def get(self, path: str, **parameters: str | int | None) -> Any:
        """GET a JSON value; parameters that are None are left out."""
        return await self._ask("GET", path, parameters=parameters)

    async def post(
        self, path: str, body: Any, *, headers: Mapping[str, str] | None = None, **parameters: str | int | None
    ) -> Any:
        """POST a JSON value (or its bytes) and return the answer's."""
        return await self._ask("POST", path, body=body, headers=headers, parameters=parameters)

    async def create(self, path: str, body: Any, **parameters: str | int | None) -> Any:
        """POST a creation that may be sent twice: it carries an idempotency key and is tried again once.

        Also after a 503: the service itself may not know whether PostgreSQL committed.
        """
        headers = {"Idempotency-Key": secrets.token_hex(16)}
        try:
            return await self._ask("POST", path, body=body, headers=headers, parameters=parameters)
        except UnreachableError:
            await asyncio.sleep(RETRY_SECONDS)
            return await self._ask("POST", path, body=body, headers=headers, parameters=parameters)

    async def put(self, path: str, body: Any, **parameters: str | int | None) -> Any:
        """PUT a JSON value and return the answer's."""
        return await self._ask("PUT", path, body=body, parameters=parameters)

    async def patch(self, path: str, body: Any, **parameters: str | int | None) -> Any:
        """PATCH with a JSON value and return the answer's."""
        return await self._ask("PATCH", path, body=body, parameters=parameters)

    async def delete(self, path: str, **parameters: str | int | None) -> Any:
        """DELETE what is at `path`, and return the answer's value if it has one."""
        return await self._ask("DELETE", path, parameters=parameters)

    async def lines(self, path: str, **parameters: str | int | None) -> AsyncIterator[bytes]:
        """Yield the lines of a long answer as they come, each with its line feed."""
        query = {name: str(value) for name, value in parameters.items() if value is not None}
        where = self.server.base_url
        try:
            async with self._session.get(
                where + path,
                params=query,
                headers={"Authorization": f"Bearer {self.server.api_key}"},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=REQUEST_SECONDS),
            ) as response:
                kind = response.headers.get("Content-Type", "")
                if response.status != 200 or not kind.startswith("application/x-ndjson"):  # noqa: PLR2004 - success
                    _answer(where, response.status, kind, await response.read())
                    raise UnreachableError(f"{where} answered, but not with lines")
                rest = b""
                async for chunk in response.content.iter_any():
                    *whole, rest = (rest + chunk).split(b"\n")
                    for line in whole:
                        yield line + b"\n"
                if rest:
                    yield rest
        except TimeoutError as error:
            raise UnreachableError(f"{where} did not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            never = isinstance(error, aiohttp.ClientConnectorError)
            raise UnreachableError(f"cannot reach {where}: {_reason(error)}", sent=not never) from error

    async def exchange(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request as it is, with its own credentials, and return status, headers and body, whatever they are.

        Raises:
            UnreachableError: no answer.
        """
        url = self.server.base_url + target
        data = None if body is None else io.BytesIO(body)
        try:
            async with self._session.request(method, url, data=data, headers=headers, allow_redirects=False) as answer:
                return answer.status, dict(answer.headers), await answer.read()
        except TimeoutError as error:
            raise UnreachableError(f"{self.server.base_url} did not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UnreachableError(f"cannot reach {self.server.base_url}: {_reason(error)}") from error

    async def pages(self, path: str, name: str, **parameters: str | int | None) -> AsyncIterator[Any]:
        """Yield the entries of a list, page by page."""
        cursor: str | None = None
        while True:
            page = await self.get(path, cursor=cursor, **parameters)
            for entry in page[name]:
                yield entry
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str | int | None] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        for value in (headers or {}).values():
            if not (value.isascii() and value.isprintable()):
                raise RefusedError(400, "invalid-name", f"{value!r} is no name")
        held = {"Authorization": f"Bearer {self.server.api_key}"} if self.server.api_key else {}
        sent = held | dict(headers or {})
        data = body if body is None or isinstance(body, bytes) else _encoded(body)
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        query = {name: str(value) for name, value in (parameters or {}).items() if value is not None}
        where = self.server.base_url
        try:
            # SECURITY: a redirect could carry the key elsewhere.
            async with self._session.request(
                method,
                where + path,
                data=None if data is None else io.BytesIO(data),
                params=query,
                headers=sent,
                allow_redirects=False,
            ) as response:
                raw = await response.read()
                return _answer(where, response.status, response.headers.get("Content-Type", ""), raw)
        except TimeoutError as error:
            raise UnreachableError(f"{where} did not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            hint = "" if self.server.found_in == "KASBAH_URL" else f" (from {self.server.found_in})"
            never = isinstance(error, aiohttp.ClientConnectorError)
            raise UnreachableError(f"cannot reach {where}{hint}: {_reason(error)}", sent=not never) from error


def _encoded(body: Any) -> bytes:
    """Return a body as JSON; raises `RefusedError` for text from a command line that is not UTF-8."""
    try:
        return json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RefusedError(400, "invalid-name", f"{error.object[:100]!r} is not UTF-8") from error


def _reason(error: Exception) -> str:
    cause = getattr(error, "os_error", None) or error
    return getattr(cause, "strerror", None) or str(cause) or type(error).__name__


def _answer(where: str, status: int, content_type: str, raw: bytes) -> Any:
    if status == 204:  # noqa: PLR2004 - no content
        return None
    try:
        value = json.loads(raw)
    except ValueError:
        value = None
    if 200 <= status < 300 and value is not None:  # noqa: PLR2004 - success
        return value
    if not content_type.startswith("application/problem+json") or not isinstance(value, dict):
        raise UnreachableError(f"{where} answered {status}, but not as Kasbah does")
    slug = str(value.get("type", "")).rpartition(":")[2]
    said = str(value.get("title", "refused"))
    if value.get("detail"):
        said += f": {value['detail']}"
    pointer = value.get("pointer")
    if pointer:
        said += f" (at {pointer})"
    if status >= 500:  # noqa: PLR2004 - the server's fault
        raise UnavailableError(f"{where} cannot answer now: {said}")
    if slug == "not-authenticated":
        said = f"the API key, or the session, is unknown, expired or revoked at {where}"
    raise RefusedError(status, slug, said, pointer)


def path_of(*parts: str) -> str:
    """Return `/v1/…` with every part quoted, so that no name can change the route.

    Raises:
        RefusedError: a part that no quoting keeps from meaning another directory.
    """
    for part in parts:
        if part in {"", ".", ".."} or _SURROGATE.search(part) is not None:
            raise RefusedError(400, "invalid-name", f"{part!r} is no name")
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Client]:
    """Yield a client of `server`."""
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS)
    # So that somebody who looks at their sign-ins knows which one this was.
    headers = {"User-Agent": f"kasbah/{service.__version__}"}
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=True, headers=headers) as session:
        yield Client(server, session)


def ask(work: Callable[[Client], Coroutine[Any, Any, _T]], server: Server | None = None) -> _T:
    """Run `work` with a client of the server that is found, and return its result."""
    found = server or find_server()

    async def run() -> _T:
        async with connected(found) as client:
            return await work(client)

    return asyncio.run(run())
