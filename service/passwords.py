"""Opens what passwords need: the pool that hashes, the lists, the range server."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import aiohttp
from aiohttp import web

from authn.breached_list import BreachedList
from authn.breached_passwords import BreachedPasswords
from authn.new_passwords import NewPasswords
from authn.password_hashing import PasswordHasher
from authn.password_settings import PasswordSettings
from authn.passwords import Advice
from service.app import Part
from service.breached_range import HttpRangeServer
from service.keys import METRICS, NEW_PASSWORDS, PASSWORDS


def password_part(settings: PasswordSettings) -> Part:
    """Return the part of the application; it opens after metrics."""

    async def passwords(app: web.Application) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            hasher = app[PASSWORDS] = PasswordHasher(settings)
            stack.callback(hasher.close)
            breaches = await _breaches(settings, stack)
            app[NEW_PASSWORDS] = NewPasswords(hasher, breaches, blocklist=LazyWords(), advise=advise)
            app[METRICS].add_source(hasher.totals, everywhere=True)
            app[METRICS].add_source(breaches.totals, everywhere=True)
            yield

    return passwords


async def _breaches(settings: PasswordSettings, stack: AsyncExitStack) -> BreachedPasswords:
    offline = server = None
    if settings.breached_list is not None:
        offline = BreachedList(settings.breached_list)
        stack.callback(offline.close)
    if settings.breached_range_url is not None:
        session = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
        server = HttpRangeServer(session, settings.breached_range_url, timeout_seconds=settings.breached_range_seconds)
    return BreachedPasswords(offline, server)


class LazyWords:
    """Common words, loaded by the first password that is judged: a worker that judges none does without."""

    def __contains__(self, word: object) -> bool:
        from authn.password_strength import is_known_word

        return is_known_word(word)


def advise(password: str, context_words: Sequence[str]) -> Advice:
    """Return what zxcvbn thinks."""
    from authn import password_strength

    return password_strength.advise(password, context_words)
