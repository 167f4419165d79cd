"""Whether a password became known in a breach: asked of a range server, or of the list on this machine.

A range server ("Have I Been Pwned" or one of its kind) is told the first five hex digits of the SHA-1 of the password,
which hundreds of others share, and answers with all it knows that begin so. When it does not answer the list decides.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Protocol

from authn.breached_list import BreachedList
from authn.password_text import encode_password

PREFIX_DIGITS = 5
_LINE = re.compile(r"([0-9A-F]{35}):([0-9]{1,12})\Z")


class RangeServer(Protocol):
    """Answers for a prefix."""

    async def find_suffixes(self, prefix: str) -> frozenset[str] | None:
        """Return the other 35 hex digits of each breached password that begins so; None when it did not answer."""


class BreachedPasswords:
    """Both sources; each may be missing. Without any, nothing is breached."""

    def __init__(self, offline: BreachedList | None, server: RangeServer | None) -> None:
        self._offline = offline
        self._server = server
        self._counts = {"breached_asked_server": 0, "breached_asked_list": 0, "breached_server_silent": 0}

    async def is_breached(self, password: str) -> bool:
        """Whether a password (in NFC) is known."""
        digest = hashlib.sha1(encode_password(password), usedforsecurity=False)
        if self._server is not None:
            said = digest.hexdigest().upper()
            suffixes = await self._server.find_suffixes(said[:PREFIX_DIGITS])
            if suffixes is not None:
                self._counts["breached_asked_server"] += 1
                return said[PREFIX_DIGITS:] in suffixes
            self._counts["breached_server_silent"] += 1
        if self._offline is None:
            return False
        self._counts["breached_asked_list"] += 1
        return digest.digest() in self._offline

    def totals(self) -> Mapping[str, int]:
        """Return which source was asked how often."""
        return dict(self._counts)


def read_range(text: str) -> frozenset[str] | None:
    """Return the suffixes of a range server's answer; None when it is not one, as a login page of some proxy is.

    Lines with the count 0 are padding: they hide how long the answer is, and mean nothing.
    """
    suffixes = set()
    for line in text.split():
        found = _LINE.match(line)
        if found is None:
            return None
        if int(found[2]):
            suffixes.add(found[1])
    return frozenset(suffixes)
