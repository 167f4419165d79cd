"""What follows a refused sign-in once it was answered: the audit and the mails of `authn/sign_in_notices.py`."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from authn.sign_in import SignInRefused
from authn.sign_in_notices import SignInNotices
from service.edge_errors import OverloadedError
from tenancy.tenant import ChangeMeta

MOST = 512
"""Sign-ins under way, and events of refused ones that are being written, of one process."""

_log = structlog.get_logger(__name__)


class Aftermath:
    """One per process.

    SECURITY: answers do not wait for it, since what follows differs: who is known gets mails and is named in the audit.
    A place is taken before anything is judged, so that no refusal is ever left out for want of one.
    """

    def __init__(
        self, notices: SignInNotices, hurry_mails: Callable[[], None], count: Callable[[str], None], most: int = MOST
    ) -> None:
        """Keep what tells, what has mails be sent soon, and what counts events that were lost."""
        self._notices = notices
        self._hurry_mails = hurry_mails
        self._count = count
        self._room = most
        self._tasks: set[asyncio.Task[None]] = set()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place for one sign-in; raises `OverloadedError` when there is none."""
        if self._room <= 0:
            raise OverloadedError
        self._room -= 1
        try:
            yield
        finally:
            self._room += 1

    def begin(self, refused: SignInRefused, meta: ChangeMeta) -> None:
        """Tell of a refusal, in a place of its own."""
        self._room -= 1
        task = asyncio.create_task(self._tell(refused, meta), name="sign-in-aftermath")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settled(self) -> None:
        """Wait until what was begun is done."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _tell(self, refused: SignInRefused, meta: ChangeMeta) -> None:
        try:
            if await self._notices.tell(refused, meta):
                self._hurry_mails()
        except Exception as error:  # noqa: BLE001 - a supervisor: nobody waits for the outcome
            self._count("sign_in_refusals_untold")
            _log.warning("sign_in.untold", error=str(error) or type(error).__name__)
        finally:
            self._room += 1
