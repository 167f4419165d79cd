"""Whose address is believed: the connection's, and what trusted proxies add to it; never a stranger's word."""

from ipaddress import ip_network

import pytest
from pydantic import ValidationError

from service.client_address import client_address
from service.http_settings import HttpSettings

PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]

CASES = [
    ("192.0.2.7", [], "192.0.2.7"),
    ("192.0.2.7", ["198.51.100.1"], "192.0.2.7"),  # forged: no proxy of ours said it
    ("10.0.0.1", [], "10.0.0.1"),
    ("10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
    ("10.0.0.1", ["198.51.100.1, 192.0.2.7"], "192.0.2.7"),  # the first was there before our proxy added the second
    ("10.0.0.1", ["198.51.100.1", "192.0.2.7"], "192.0.2.7"),
    ("10.0.0.1", ["198.51.100.1, 192.0.2.7, 10.9.9.9"], "192.0.2.7"),
    ("10.0.0.1", ["192.0.2.7, unknown"], "10.0.0.1"),
    ("10.0.0.1", ["192.0.2.7, "], "10.0.0.1"),
    ("10.0.0.1", ["10.0.0.2, 10.0.0.3"], "10.0.0.2"),
    ("::ffff:10.0.0.1", ["2001:DB8::1"], "2001:db8::1"),
    ("fd00::1", ["::ffff:192.0.2.7"], "192.0.2.7"),
]


@pytest.mark.parametrize(("peer", "forwarded", "address"), CASES)
def test_the_nearest_stranger_is_who_calls(peer, forwarded, address):
    """A header that a client made up changes nothing."""
    assert client_address(peer, forwarded, PROXIES) == address


def test_without_trusted_proxies_the_header_means_nothing():
    """That is the default."""
    assert HttpSettings().trusted_proxies == ()
    assert client_address("10.0.0.1", ["192.0.2.7"], []) == "10.0.0.1"


def test_proxies_are_networks():
    """What is none is refused at start, not met in a request."""
    assert HttpSettings(trusted_proxies=("10.0.0.0/8", "192.0.2.1"))
    with pytest.raises(ValidationError):
        HttpSettings(trusted_proxies=("proxy.example",))
