"""How the command line finds its server, and that keys go nowhere else."""

import json
from pathlib import Path

import pytest

from service.client import RefusedError, path_of
from service.which_server import NoServerError, Server, find_server


def dev_file(directory: Path, **members: object) -> Path:
    """Write a `dev.json`."""
    said = {"base_url": "http://127.0.0.1:8080", "platform_key": "kasbah_dev"} | members
    (directory / "dev.json").write_text(json.dumps(said))
    return directory


def test_variables_win_over_the_file(tmp_path: Path) -> None:
    """Both variables name another server than the one that runs here."""
    found = find_server(
        {"KASBAH_URL": "https://pdp.example/", "KASBAH_API_KEY": "k", "KASBAH_STATE_DIR": str(dev_file(tmp_path))}
    )
    assert (found.base_url, found.api_key) == ("https://pdp.example", "k")


def test_the_file_completes_a_single_variable(tmp_path: Path) -> None:
    """A key alone goes to the development server; its URL alone gets the development key."""
    state = {"KASBAH_STATE_DIR": str(dev_file(tmp_path))}
    assert find_server(state).api_key == "kasbah_dev"
    assert find_server(state | {"KASBAH_API_KEY": "mine"}).api_key == "mine"
    assert find_server(state | {"KASBAH_URL": "http://127.0.0.1:8080/"}).api_key == "kasbah_dev"


def test_the_development_key_goes_to_no_other_server(tmp_path: Path) -> None:
    """A URL without a key must not receive the key of another server."""
    with pytest.raises(NoServerError, match="another server"):
        find_server({"KASBAH_STATE_DIR": str(dev_file(tmp_path)), "KASBAH_URL": "https://evil.example"})


@pytest.mark.parametrize(
    "members",
    [{"base_url": "file:///etc/passwd"}, {"base_url": 7}, {"platform_key": "a b"}, {"platform_key": None}],
)
def test_a_damaged_file_is_said(tmp_path: Path, members: dict[str, object]) -> None:
    """One clear error, whatever is wrong with it."""
    with pytest.raises(NoServerError):
        find_server({"KASBAH_STATE_DIR": str(dev_file(tmp_path, **members))})


@pytest.mark.parametrize("url", ["x", "http://", "http://u:p@h", "http://h?x=1", "http://h#x", "gopher://h"])
def test_urls_that_are_none(url: str) -> None:
    """Credentials in URLs are refused too: they would be logged."""
    with pytest.raises(NoServerError):
        find_server({"KASBAH_URL": url, "KASBAH_API_KEY": "k"})


def test_no_server_says_how_to_get_one(tmp_path: Path) -> None:
    """Nothing set, nothing running."""
    with pytest.raises(NoServerError, match="kasbah dev"):
        find_server({"KASBAH_STATE_DIR": str(tmp_path)})


def test_a_server_never_prints_its_key() -> None:
    """Tracebacks and logs show representations."""
    assert "secret" not in repr(Server("http://h", "secret", "x"))


def test_no_name_changes_the_route() -> None:
    """Slashes, dots and question marks stay inside their part."""
    assert path_of("tenants", "../keys?x=1#", "rules") == "/v1/tenants/..%2Fkeys%3Fx%3D1%23/rules"
    for name in ("", ".", ".."):
        with pytest.raises(RefusedError):
            path_of("tenants", name, "rules")
