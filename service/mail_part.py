"""Sends the mails that wait, where a mail server (or an outbox) is configured."""

from collections.abc import AsyncIterator
from contextlib import suppress

import structlog
from aiohttp import web

from authn.mail_delivery import MailDelivery
from authn.mail_settings import MailSettings, sender_of
from authn.mail_transport import transport_of
from service.app import Part
from service.jobs import Job
from service.keys import HTTP_SETTINGS, JOBS, KEY_RING, METRICS, SESSIONS

MAILS_JOB = "mails"
EVERY_SECONDS = 2.0

_log = structlog.get_logger()


def hurry_mails(app: web.Application) -> None:
    """Have what was queued be sent soon, if this process sends mails; another one looks every two seconds."""
    with suppress(KeyError):
        app[JOBS].wake(MAILS_JOB)


def mailing(settings: MailSettings) -> Part:
    """Return the part of the application that sends mails: opens after the database and the key ring."""

    async def part(app: web.Application) -> AsyncIterator[None]:
        transport = transport_of(settings, sender_of(settings.sender).mailbox)
        if transport is None:
            _log.warning("mail.no_server", consequence="mails wait, and end unsent after a day")
        else:
            delivery = MailDelivery(
                app[SESSIONS],
                app[KEY_RING],
                transport,
                settings,
                public_url=app[HTTP_SETTINGS].public_url,
                count=app[METRICS].count_event,
            )
            app[JOBS].add(Job(MAILS_JOB, EVERY_SECONDS, delivery.run))
        yield

    return part
