"""Breached passwords: the file, the range server's protocol, and who decides when it is silent."""

import asyncio
import gzip
import hashlib
import random

import aiohttp
import pytest
from aiohttp import web
from click.testing import CliRunner

from authn.breached_list import HEADER_BYTES, BreachedList, BreachedListError, write_breached_list
from authn.breached_passwords import BreachedPasswords, read_range
from authn.password_settings import PasswordSettings
from service.breached_range import HttpRangeServer
from service.cli.root import root


def sha1(password: str) -> bytes:
    return hashlib.sha1(password.encode()).digest()


@pytest.mark.parametrize("spread", ["even", "crowded"])
def test_a_list_holds_what_was_written_and_nothing_else(tmp_path, spread):
    """In any order, each once, in runs far smaller than the whole; also where guesses at the place are far off."""
    chance = random.Random(7)
    digests = [chance.randbytes(20) for _ in range(3000)]
    if spread == "crowded":
        digests = [bytes(15) + digest[:5] for digest in digests] + [b"\xff" * 20]
    path = tmp_path / "list"
    written = []
    assert write_breached_list([*digests, *digests[:500]], path, chunk=100, progress=written.append) == len(
        set(digests)
    )
    assert written[-1] == len(set(digests))
    breached = BreachedList(path)
    assert all(digest in breached for digest in digests)
    assert not any(chance.randbytes(20) in breached for _ in range(3000))
    assert bytes(20) not in breached
    assert b"\xff" * 19 not in breached
    breached.close()
    assert [file.name for file in tmp_path.iterdir()] == ["list"]


def test_an_empty_list_holds_nothing(tmp_path):
    """A file all the same."""
    assert write_breached_list([], tmp_path / "list") == 0
    breached = BreachedList(tmp_path / "list")
    assert sha1("password") not in breached
    breached.close()


@pytest.mark.parametrize("damage", ["cut", "grown", "other", "short"])
def test_a_damaged_list_is_refused(tmp_path, damage):
    """Half a list would let half of all breached passwords through, and nobody would notice."""
    path = tmp_path / "list"
    write_breached_list([sha1(str(number)) for number in range(10)], path)
    whole = path.read_bytes()
    path.write_bytes(
        {"cut": whole[:-20], "grown": whole + bytes(20), "other": b"x" + whole[1:], "short": whole[: HEADER_BYTES - 1]}[
            damage
        ]
    )
    with pytest.raises(BreachedListError):
        BreachedList(path)
    with pytest.raises(ValueError, match="breached_list"):
        PasswordSettings(breached_list=path)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    """The file takes its place when it is whole."""
    path = tmp_path / "list"
    write_breached_list([sha1("old")], path)

    def broken():
        yield sha1("new")
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write_breached_list(broken(), path)
    breached = BreachedList(path)
    assert sha1("old") in breached
    breached.close()
    assert [file.name for file in tmp_path.iterdir()] == ["list"]


def test_the_command_makes_lists_of_text_and_of_hashes(tmp_path):
    """Passwords one a line, in NFC as they will be chosen; or what Have I Been Pwned publishes, rare ones left out."""
    (tmp_path / "words.txt").write_bytes("hunter2\r\n\ncafe\u0301\n".encode() + b"\xff\xfe\n")
    with gzip.open(tmp_path / "more.gz", "wb") as file:
        file.write(b"letmein\n")
    out = tmp_path / "list"
    done = CliRunner().invoke(root, ["passwords", "build-list", *map(str, tmp_path.glob("*.*")), "-o", str(out)])
    assert done.exit_code == 0, done.output
    breached = BreachedList(out)
    assert breached.count == 4
    assert all(sha1(word) in breached for word in ("hunter2", "caf\u00e9", "letmein"))
    assert sha1("hunter2\r") not in breached
    breached.close()
    hashed = tmp_path / "hashed.txt"
    hashed.write_text(f"{sha1('often').hex().upper()}:120\n{sha1('rare').hex()}:2\n{sha1('bare').hex()}\n")
    done = CliRunner().invoke(
        root, ["passwords", "build-list", "--hashed", "--min-count", "10", str(hashed), "-o", str(out)]
    )
    assert done.exit_code == 0, done.output
    breached = BreachedList(out)
    assert [sha1(word) in breached for word in ("often", "rare", "bare")] == [True, False, True]
    breached.close()


def test_the_command_names_the_bad_line(tmp_path):
    """A list made of the wrong file would be silently empty."""
    bad = tmp_path / "bad"
    bad.write_text(f"{sha1('a').hex()}:1\nhunter2\n")
    done = CliRunner().invoke(root, ["passwords", "build-list", "--hashed", str(bad), "-o", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert f"{bad}:2" in done.output
    assert not (tmp_path / "out").exists()


def test_an_answer_that_is_none_is_not_read_as_one():
    """A proxy's login page must not mean that nothing is breached; padding means nothing."""
    suffix = "0" * 35
    assert read_range(f"{suffix}:3\r\n{'A' * 35}:0\r\n") == {suffix}
    assert read_range("") == frozenset()
    for text in ("<html>please log in</html>", f"{suffix}:3\n{suffix}", f"{suffix.lower()}x:1", f"{suffix}:-1"):
        assert read_range(text) is None


class RangeService:
    """A range server of our own; `mode` says how it behaves."""

    def __init__(self):
        self.mode = "good"
        self.asked = []

    async def answer(self, request):
        self.asked.append((request.match_info["prefix"], dict(request.headers)))
        said = sha1("hunter2").hex().upper()
        match self.mode:
            case "good":
                return web.Response(text=f"{said[5:]}:17\r\n{'F' * 35}:0\r\n")
            case "error":
                return web.Response(status=500)
            case "moved":
                raise web.HTTPFound("http://127.0.0.1:1/")
            case "huge":
                return web.Response(text=f"{said[5:]}:17\r\n" * 40_000)
            case "slow":
                await asyncio.sleep(30)
        return web.Response(text="<html></html>")


@pytest.fixture
async def ranges():
    """A running range service, a client of it, and a clock to turn."""
    service = RangeService()
    app = web.Application()
    app.router.add_get("/range/{prefix}", service.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    clock = [100.0]
    async with aiohttp.ClientSession() as session:
        server = HttpRangeServer(session, f"http://127.0.0.1:{port}/", timeout_seconds=0.5, monotonic=lambda: clock[0])
        yield service, server, clock
    await runner.cleanup()


async def test_five_digits_leave_the_machine(ranges):
    """And the padding header, so that the length of the answer says nothing either."""
    service, server, _ = ranges
    breached = BreachedPasswords(None, server)
    assert await breached.is_breached("hunter2")
    assert not await breached.is_breached("glyph vexing jqz")
    said = sha1("hunter2").hex().upper()
    prefix, headers = service.asked[0]
    assert prefix == said[:5]
    assert headers["Add-Padding"] == "true"
    assert said[5:] not in str(service.asked)
    assert "hunter2" not in str(service.asked)


@pytest.mark.parametrize("mode", ["error", "moved", "huge", "slow", "html"])
async def test_a_server_that_fails_leaves_it_to_the_list_and_is_left_alone(ranges, tmp_path, mode):
    """Not asked again for half a minute, so that no one waits for it each time; then it is."""
    service, server, clock = ranges
    write_breached_list([sha1("letmein")], tmp_path / "list")
    offline = BreachedList(tmp_path / "list")
    breached = BreachedPasswords(offline, server)
    service.mode = mode
    assert await breached.is_breached("letmein")
    assert not await breached.is_breached("hunter2")
    assert len(service.asked) == 1
    assert breached.totals() == {"breached_asked_server": 0, "breached_asked_list": 2, "breached_server_silent": 2}
    service.mode = "good"
    clock[0] += 31
    assert await breached.is_breached("hunter2")
    assert len(service.asked) == 2
    offline.close()


async def test_without_server_and_list_nothing_is_breached():
    """The common words still count; see `test_passwords.py`."""
    assert not await BreachedPasswords(None, None).is_breached("hunter2")
