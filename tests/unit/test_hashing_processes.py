"""Hashes are computed in processes of their own: secrets stay inside, and no answer is neither right nor wrong."""

import io
import os
import signal
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from authn import hashing_processes
from authn.errors import PasswordHashingBusyError
from authn.hashing_processes import HUNG_SECONDS, HashingProcesses
from authn.hashing_program import MAX_FRAME, read_frame, write_frame
from authn.password_hashing import PasswordHasher, Verified, Wrong
from authn.password_settings import PasswordSettings

PASSWORD = "canary words of somebody"
SETTINGS = PasswordSettings(memory_mib=19, iterations=2, niceness=1, wait_seconds=30)
DEAR = PasswordSettings(memory_mib=128, iterations=4, niceness=1, wait_seconds=30)


@pytest.fixture
def hasher():
    """Closed at the end, and with it all that it started."""
    made = PasswordHasher(SETTINGS)
    yield made
    made.close()
    assert children() == []


def children():
    return [child for child in psutil.Process().children() if "authn.hashing_program" in child.cmdline()]


async def test_one_process_is_used_again_and_goes_with_whoever_started_it(hasher):
    """One for each hash at a time; it gives way, in a session of its own."""
    stored = await hasher.hash(PASSWORD)
    assert await hasher.verify(PASSWORD, stored) == Verified(needs_rehash=False)
    (child,) = children()
    assert child.nice() - psutil.Process().nice() == 1
    assert os.getsid(child.pid) == child.pid
    hasher.close()
    assert children() == []
    with pytest.raises(PasswordHashingBusyError):
        await hasher.verify(PASSWORD, stored)


async def test_nothing_secret_is_an_argument_or_in_the_environment(hasher, monkeypatch):
    """Anybody on the machine may read the one, and a crash report holds the other."""
    monkeypatch.setenv("KASBAH_SECRET_KEY", "canary-secret")
    monkeypatch.setenv("DATABASE_PASSWORD", "canary-database")
    stored = await hasher.hash(PASSWORD)
    (child,) = children()
    proc = Path(f"/proc/{child.pid}")
    said = (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
    assert b"canary" not in said
    assert stored.encode() not in said


async def test_a_process_that_is_killed_is_neither_right_nor_wrong_and_is_replaced(monkeypatch):
    """The one whose hash it was is told to come again; the next one is judged."""
    hasher = PasswordHasher(DEAR)
    cheap = PasswordHasher(SETTINGS)
    stored = await cheap.hash(PASSWORD)
    cheap.close()
    seen = []
    said = SimpleNamespace(warning=lambda *names, **more: seen.append((names, more)))
    monkeypatch.setattr(hashing_processes, "_log", said)
    asked = hashing_processes._Process.ask
    monkeypatch.setattr(
        hashing_processes._Process,
        "ask",
        lambda process, job: (threading.Timer(0.02, process._child.kill).start(), asked(process, job))[1],
    )
    for call in (hasher.verify(PASSWORD, None), hasher.hash(PASSWORD)):
        with pytest.raises(PasswordHashingBusyError):
            await call
    monkeypatch.setattr(hashing_processes._Process, "ask", asked)
    assert await hasher.verify(PASSWORD, stored) == Verified(needs_rehash=True)
    assert await hasher.verify(PASSWORD + "!", stored) == Wrong()
    hasher.close()
    assert len(seen) == 2
    assert "canary" not in repr(seen)


async def test_one_that_ended_while_it_rested_costs_nobody_a_refusal(hasher):
    """The system may take it for its memory at any time."""
    stored = await hasher.hash(PASSWORD)
    (child,) = children()
    child.kill()
    child.wait(60)
    assert await hasher.verify(PASSWORD, stored) == Verified(needs_rehash=False)


async def test_one_that_hangs_is_ended(hasher):
    """Its place would be lost for good."""
    stored = await hasher.hash(PASSWORD)
    (child,) = children()
    (process,) = hasher._processes._resting
    assert process._end.gettimeout() == HUNG_SECONDS
    process._end.settimeout(0.2)
    child.send_signal(signal.SIGSTOP)
    with pytest.raises(PasswordHashingBusyError):
        await hasher.verify(PASSWORD, stored)
    assert await hasher.verify(PASSWORD, stored) == Verified(needs_rehash=False)
    assert child.pid not in {other.pid for other in children()}


@pytest.mark.parametrize("answer", [b"", b"maybe", b"yes ", b"\x01", b"no" * 16])
def test_another_answer_is_none(answer, monkeypatch):
    """Only the two words count."""
    processes = HashingProcesses(1)
    monkeypatch.setattr(hashing_processes._Process, "ask", lambda *_: answer)
    with pytest.raises(PasswordHashingBusyError):
        processes.compare("$argon2id$", b"x")
    processes.close()


async def test_what_cannot_be_computed_ends_the_process_without_a_word(capfd):
    """Text that is no hash, a cost that memory cannot bear: nothing of it is said."""
    processes = HashingProcesses(1)
    with pytest.raises(PasswordHashingBusyError):
        processes.compare("canary-stored", PASSWORD.encode())
    processes.close()
    assert "canary" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "sent", [b"", b"\0\0", b"\0\0\0\5abc", (MAX_FRAME + 1).to_bytes(4, "big") + b"x" * (MAX_FRAME + 1)]
)
def test_a_broken_message_is_the_end(sent):
    """Half of one is never taken for a whole."""
    one, other = socket.socketpair()
    with one, other:
        one.sendall(sent[:1000])
        one.shutdown(socket.SHUT_WR)
        with other.makefile("rwb") as stream:
            assert read_frame(stream) is None


def test_messages_come_as_they_were_sent():
    """Empty ones, too."""
    one, other = socket.socketpair()
    with one, other, one.makefile("rwb") as sending, other.makefile("rwb") as receiving:
        assert isinstance(sending, io.BufferedRWPair)
        for data in (b"", b"abc", b"x" * 5000):
            write_frame(sending, data)
            assert read_frame(receiving) == data
