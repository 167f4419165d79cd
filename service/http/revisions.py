"""Revisions in headers: which one a caller demands, which one an answer used."""

import re

from multidict import CIMultiDictProxy

from service.edge_errors import InvalidRequestError

MIN_REVISION_HEADER = "Kasbah-Min-Revision"
REVISION_HEADER = "Kasbah-Revision"

_REVISION = re.compile(r"[0-9]{1,18}\Z", re.ASCII)


def min_revision_of(headers: CIMultiDictProxy[str]) -> int | None:
    """Return the demanded revision, or None; raises `InvalidRequestError` when repeated or no number."""
    values = headers.getall(MIN_REVISION_HEADER, [])
    if not values:
        return None
    if len(values) > 1 or _REVISION.match(values[0]) is None:
        raise InvalidRequestError(f"`{MIN_REVISION_HEADER}` is one non-negative integer")
    return int(values[0])


def likely_min_revision(headers: CIMultiDictProxy[str]) -> int:
    """Return the demanded revision as far as it can be read, else 0; what is wrong with it is said elsewhere."""
    values = headers.getall(MIN_REVISION_HEADER, [])
    return int(values[0]) if len(values) == 1 and _REVISION.match(values[0]) is not None else 0


def revision_headers(revision: int) -> dict[str, str]:
    """Return the header that says which revision an answer used."""
    return {REVISION_HEADER: str(revision)}
