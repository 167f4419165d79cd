"""A real browser with a security key in it, driven over the DevTools protocol."""

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import aiohttp

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
MISSING = "no Chromium on this machine (Debian: apt-get install chromium)"
START_SECONDS = 60.0
ANSWER_SECONDS = 30.0


class Browser:
    """One page of a browser, and its virtual authenticators."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._next = 0

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and return its result; events are let go."""
        self._next += 1
        await self._socket.send_json({"id": self._next, "method": method, "params": parameters})
        async with asyncio.timeout(ANSWER_SECONDS):
            while True:
                message = await self._socket.receive_json()
                if message.get("id") == self._next:
                    break
        if "error" in message:
            raise AssertionError(f"{method}: {message['error']}")
        result: dict[str, Any] = message["result"]
        return result

    async def open(self, url: str) -> None:
        """Go to a page and wait until it is there."""
        await self.call("Page.navigate", url=url)
        await self.run(
            "new Promise(there => document.readyState === 'complete' ? there(true) : addEventListener('load', () => there(true)))"
        )

    async def run(self, script: str) -> Any:
        """Return what an expression of the page gives, awaited; what it throws is an `AssertionError` with its text."""
        answer = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise AssertionError(details.get("exception", {}).get("description") or details["text"])
        return answer["result"].get("value")

    async def plug_in(self, *, protocol: str = "ctap2", verifies: bool = True) -> str:
        """Plug a security key in and return its id."""
        await self.call("WebAuthn.enable", enableUI=False)
        options = {
            "protocol": protocol,
            "transport": "usb",
            "hasResidentKey": protocol == "ctap2",
            "hasUserVerification": verifies,
            "isUserVerified": verifies,
            "automaticPresenceSimulation": True,
        }
        added = await self.call("WebAuthn.addVirtualAuthenticator", options=options)
        return str(added["authenticatorId"])

    async def create(self, options: dict[str, Any]) -> Any:
        """Return what the page's `navigator.credentials.create` gives, as JSON."""
        return await self.run(
            "navigator.credentials.create({publicKey: PublicKeyCredential.parseCreationOptionsFromJSON("
            f"{json.dumps(options)})}}).then(made => made.toJSON())"
        )

    async def get(self, options: dict[str, Any]) -> Any:
        """Return what the page's `navigator.credentials.get` gives, as JSON."""
        return await self.run(
            "navigator.credentials.get({publicKey: PublicKeyCredential.parseRequestOptionsFromJSON("
            f"{json.dumps(options)})}}).then(found => found.toJSON())"
        )


class _Process:
    """A headless Chromium with a profile of its own."""

    def __init__(self) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="kasbah-chromium-", ignore_cleanup_errors=True)
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        assert CHROMIUM is not None
        # SECURITY: without its sandbox, since CI runs as root; it opens nothing but our own page on loopback.
        self._process = await asyncio.create_subprocess_exec(
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-extensions",
            "--disable-background-networking",
            "--no-first-run",
            "--remote-debugging-port=0",
            f"--user-data-dir={self._profile.name}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=os.environ | {"HOME": self._profile.name},
            start_new_session=True,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        await self._process.wait()
        self._profile.cleanup()

    async def port(self) -> int:
        """Return where it listens, once it does."""
        told = Path(self._profile.name) / "DevToolsActivePort"
        async with asyncio.timeout(START_SECONDS):
            while not told.exists() or not told.read_text().strip():  # noqa: ASYNC110 - a file that another process writes
                await asyncio.sleep(0.05)
        return int(told.read_text().split()[0])


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Start a browser and give its page."""
    async with _Process() as process, aiohttp.ClientSession() as client:
        port = await process.port()
        async with client.get(f"http://127.0.0.1:{port}/json/list") as response:
            pages = await response.json()
        (page,) = [page for page in pages if page["type"] == "page"]
        async with client.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            browser = Browser(socket)
            await browser.call("Page.enable")
            await browser.call("Emulation.setFocusEmulationEnabled", enabled=True)
            yield browser
