"""The decision log: what it takes, what it masks, and that it never holds up a decision."""

import io
import json
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from authz.decision import Decision, Reason
from authz.request import Action, Entity, EvaluationRequest
from authz.rules import Effect
from service.decision_log import Asked, DecisionLog
from service.http_settings import DecisionLogSettings
from tests.support.paths import ROOT
from tests.support.policies import NOW

ALLOW = Decision(Effect.ALLOW, Reason.RULE, 7)
DENY = Decision(Effect.DENY, Reason.NO_MATCH, 7)
REQUEST = EvaluationRequest(Entity("user", "alice"), Action("read"), Entity("record", "1"))


def asked(decision=DENY, request=REQUEST, **more):
    """Return one decision."""
    return Asked(NOW, "request-1", "tenant-1", "key:0123abcd", request, decision, **more)


class Sink(io.BytesIO):
    """A file whose text outlives it."""

    def close(self):
        self.text = self.getvalue().decode()
        super().close()


def log_to(sink, **settings):
    """Return a started log."""
    log = DecisionLog(DecisionLogSettings(path="x", **settings), opener=lambda _: sink, chance=lambda: 0.05)
    log.start()
    return log


@pytest.mark.parametrize(
    ("settings", "allows", "denies"),
    [
        ({"mode": "off"}, False, False),
        ({"mode": "denies"}, False, True),
        ({"mode": "all"}, True, True),
        ({"mode": "sampled", "sample_rate": 0.1}, True, True),
        ({"mode": "sampled", "sample_rate": 0.05}, False, False),
        ({"mode": "sampled", "sample_rate": 0.0}, False, False),
    ],
)
def test_the_mode_says_what_is_logged(settings, allows, denies):
    """Off, denies, sampled, all."""
    log = DecisionLog(DecisionLogSettings(**settings), chance=lambda: 0.05)
    assert (log.wants(allowed=True), log.wants(allowed=False)) == (allows, denies)
    assert log.enabled is (settings["mode"] != "off")


def test_a_decision_is_one_line_of_json():
    """Who asked what, when, under which revision, and how it came out."""
    sink = Sink()
    log = log_to(sink, mode="all")
    log.record(asked(ALLOW))
    log.record(asked(DENY))
    log.close()
    first, second = (json.loads(line) for line in sink.text.splitlines())
    assert first.items() >= {
        "event": "decision", "request_id": "request-1", "tenant": "tenant-1", "caller": "key:0123abcd", "subject": "user:alice",
        "action": "read", "resource": "record:1", "decision": True, "reason": "rule", "revision": 7,
    }.items()  # fmt: skip
    assert first["at"] == NOW.isoformat()
    assert second["decision"] is False
    assert (log.written, log.dropped) == (2, 0)


def test_it_says_where_each_attribute_came_from():
    """A stored one wins over an asserted one; what may not be asserted is shown as ignored."""
    request = EvaluationRequest(
        Entity("user", "alice", {"a": 1, "b": 2}),
        Action("read", {"soft": True}),
        Entity("record", "1"),
        {"ip": "10.0.0.1"},
    )
    log = DecisionLog(DecisionLogSettings(mode="all"))
    said = json.loads(
        log.line(
            asked(
                request=request,
                stored_subject={"b": 3, "c": 4},
                ignored_subject={"c": 9},
                ignored_resource={"d": 5},
            )
        )
    )
    assert said["attributes"] == {
        "subject": {
            "a": {"value": 1, "from": "asserted"},
            "b": {"value": 3, "from": "stored"},
            "c": {"value": 4, "from": "stored"},
        },
        "resource": {"d": {"value": 5, "from": "ignored"}},
        "action": {"soft": {"value": True, "from": "caller"}},
        "context": {"ip": {"value": "10.0.0.1", "from": "caller"}},
    }


def test_attributes_are_masked_by_name_at_any_depth():
    """Whatever the case of the name, and wherever it came from."""
    secret = "canary-4711"
    request = EvaluationRequest(
        Entity(
            "user", "alice", {"Password": secret, "profile": {"list": [{"TOKEN": secret}, {"x": {"ssn": [secret]}}]}}
        ),
        Action("read", {"secret": secret}),
        Entity("record", "1"),
        {"Authorization": {"deep": secret}, "fine": "visible"},
    )
    log = DecisionLog(DecisionLogSettings(mode="all", masked=("password", "token", "ssn", "secret", "authorization")))
    line = log.line(asked(request=request, stored_subject={"sSn": secret}, ignored_subject={"password": secret}))
    assert secret not in line
    assert "visible" in line
    assert "***" in line


@pytest.mark.parametrize("name", ["a\nb", "a\r\n{}", "\x1b[2J", "\u2028", "\u202e", "\x7f\x9b"])
def test_a_hostile_name_stays_one_line(name):
    """Of printable ASCII."""
    request = replace(REQUEST, subject=Entity("user", name), context={name: name})
    line = DecisionLog(DecisionLogSettings(mode="all")).line(asked(request=request))
    assert line.endswith("\n")
    assert line[:-1].isascii()
    assert line[:-1].isprintable()
    assert json.loads(line)["subject"] == f"user:{name}"


def test_a_stuck_writer_never_holds_up_a_decision_and_what_is_lost_is_counted():
    """The queue is bounded."""
    gate = threading.Event()

    class Stuck(Sink):
        def write(self, data):
            gate.wait(60)
            return super().write(data)

    sink = Stuck()
    log = log_to(sink, mode="all", queue_size=10)
    for _ in range(1000):  # the gate is closed all the while: whoever waited for the writer would stand here
        log.record(asked())
    assert 1000 - 10 - 256 <= log.dropped <= 990
    gate.set()
    log.close()
    assert log.written == len(sink.text.splitlines()) == 1000 - log.dropped
    assert log.totals() == {"decision_log_dropped": log.dropped, "decision_log_written": log.written}


def test_a_full_disk_is_counted_and_the_writer_goes_on():
    """Decisions do not depend on it."""

    class Full(Sink):
        full = True

        def write(self, data):
            if self.full:
                raise OSError(28, "No space left on device")
            return super().write(data)

    sink = Full()
    log = log_to(sink, mode="all")
    for _ in range(3):
        log.record(asked())
    deadline = time.monotonic() + 60
    while log.dropped < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    sink.full = False
    log.record(asked())
    log.close()
    assert (log.dropped, log.written) == (3, 1)


def test_an_unwritable_path_stops_the_start(tmp_path):
    """Better than a log that is silently missing."""
    log = DecisionLog(DecisionLogSettings(mode="all", path=str(tmp_path / "missing" / "log")))
    with pytest.raises(OSError, match="missing"):
        log.start()


def test_it_appends_to_its_file(tmp_path):
    """Across restarts."""
    path = tmp_path / "decisions.jsonl"
    for _ in range(2):
        log = DecisionLog(DecisionLogSettings(mode="all", path=str(path)))
        log.start()
        log.record(asked())
        log.close()
    assert len(path.read_text().splitlines()) == 2


def test_a_short_write_is_continued():
    """Pipes take what they can."""

    class Short(Sink):
        def write(self, data):
            return super().write(data[:7])

    sink = Short()
    log = log_to(sink, mode="all")
    for _ in range(5):
        log.record(asked())
    log.close()
    assert [json.loads(line)["subject"] for line in sink.text.splitlines()] == ["user:alice"] * 5


SCRIPT = """
import sys
from tests.unit.test_decision_log import asked, DecisionLog, DecisionLogSettings, REQUEST, replace
log = DecisionLog(DecisionLogSettings(mode="all", path=sys.argv[1], queue_size=100_000))
log.start()
long = asked(request=replace(REQUEST, context={"filler": "x" * 3000}))
for _ in range(300):
    log.record(long)
log.close()
"""


def test_several_workers_append_whole_lines_to_one_file(tmp_path):
    """No line is cut by another's."""
    path = tmp_path / "decisions.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)], cwd=ROOT) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    lines = path.read_text().splitlines()
    assert len(lines) == 900
    assert all(json.loads(line)["event"] == "decision" for line in lines)
