"""Which server the command line asks, and as whom: what the environment says, or the running `kasbah dev`."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

DEFAULT_STATE_DIR = ".kasbah"
DEV_FILE = "dev.json"

_TOKEN = re.compile(r"[\x21-\x7e]+\Z")


class ClientError(Exception):
    """Base of what can go wrong between the command line and a server."""


class NoServerError(ClientError):
    """No server is configured, or its settings cannot be used."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where to ask, and as whom: without a key, as nobody. `found_in` says where that came from, for messages."""

    base_url: str
    api_key: str
    found_in: str

    def __repr__(self) -> str:
        return f"Server({self.base_url!r}, found in {self.found_in})"  # SECURITY: never the key


def find_server(environment: Mapping[str, str] | None = None) -> Server:
    """Return the server of KASBAH_URL and KASBAH_API_KEY, else that of the running `kasbah dev`.

    One of the two variables alone is completed from `dev.json`; the key of `dev.json` is sent to its own server only.

    Raises:
        NoServerError: nothing says where a server is, or with which key.
    """
    settings = os.environ if environment is None else environment
    url, key = settings.get("KASBAH_URL", "").strip(), settings.get("KASBAH_API_KEY", "").strip()
    if url and key:
        return Server(_checked_url(url), _checked_key(key), "KASBAH_URL")
    path = Path(settings.get("KASBAH_STATE_DIR") or DEFAULT_STATE_DIR) / DEV_FILE
    found = _read_dev_file(path)
    if found is None:
        missing = "KASBAH_API_KEY" if url else "KASBAH_URL" if key else "KASBAH_URL and KASBAH_API_KEY"
        raise NoServerError(f"no server: set {missing}, or start `kasbah dev` (there is no `{path}`)")
    if url and _checked_url(url) != found.base_url:
        raise NoServerError(f"KASBAH_URL is set without KASBAH_API_KEY, and `{path}` is about another server")
    return Server(found.base_url, _checked_key(key) if key else found.api_key, str(path))


def find_public_server(environment: Mapping[str, str] | None = None) -> Server:
    """Return the server of KASBAH_URL, else that of the running `kasbah dev`, to be asked without any key.

    Raises:
        NoServerError: nothing says where a server is.
    """
    settings = os.environ if environment is None else environment
    url = settings.get("KASBAH_URL", "").strip()
    if url:
        return Server(_checked_url(url), "", "KASBAH_URL")
    path = Path(settings.get("KASBAH_STATE_DIR") or DEFAULT_STATE_DIR) / DEV_FILE
    found = _read_dev_file(path)
    if found is None:
        raise NoServerError(f"no server: set KASBAH_URL, or start `kasbah dev` (there is no `{path}`)")
    return Server(found.base_url, "", str(path))


def _read_dev_file(path: Path) -> Server | None:
    try:
        found = json.loads(path.read_text("utf-8"))
        return Server(_checked_url(found["base_url"]), _checked_key(found["platform_key"]), str(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NoServerError(f"`{path}` cannot be used: {error}") from error


def _checked_url(text: object) -> str:
    if not isinstance(text, str):
        raise NoServerError("the URL of the server is no text")
    url = text.rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise NoServerError(f"`{text}` is no URL of a server, such as http://127.0.0.1:8080")
    return url


def _checked_key(text: object) -> str:
    if not isinstance(text, str) or _TOKEN.match(text) is None:
        raise NoServerError("the API key holds blanks or characters that no key has, or is no text")
    return text
