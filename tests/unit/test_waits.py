"""How long an answer tells to wait: never less than it takes."""

from datetime import timedelta

import pytest
from aiohttp.test_utils import make_mocked_request

from service.edge_errors import TooManyTriesError
from service.http.account_factors import code_mailed


@pytest.mark.parametrize(("wait", "told"), [(0.0, 1), (0.2, 1), (1.0, 1), (1.2, 2), (59.9, 60)])
def test_the_wait_for_another_code_is_rounded_up(wait: float, told: int) -> None:
    """Who comes back when the answer says so is not refused again."""
    with pytest.raises(TooManyTriesError) as refused:
        code_mailed(make_mocked_request("POST", "/"), timedelta(seconds=wait))
    assert refused.value.retry_after == told
