"""Whatever is done to the rows of a chain, a verification names the row; a chain that was left alone holds."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenancy.audit import AuditChain, AuditEntry, event_text
from tenancy.audit_chain import NO_HASH, AuditEvent, ChainHead, hash_of, show_time
from tenancy.audit_lines import BadLineError, Begin, begin_line, end_line, event_line, read_line
from tenancy.audit_verification import Checkpoint, FaultKind, shown, verify_chain
from tenancy.ids import PLATFORM_TENANT_ID
from tenancy.tenant import ChangeMeta

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
TEXTS = st.lists(st.text(max_size=20), min_size=1, max_size=12)


def chained(texts, first_seq=1, previous=NO_HASH):
    """Make a chain as the database does."""
    events = []
    for number, text in enumerate(texts):
        at = START + timedelta(microseconds=number)
        event = AuditEvent(PLATFORM_TENANT_ID, AuditChain.TENANT, first_seq + number, at, previous, b"", text)
        event = replace(event, hash=hash_of(event))
        previous = event.hash
        events.append(event)
    return events


def head_of(events, first_seq=1, first_previous=NO_HASH):
    last = events[-1]
    return ChainHead(PLATFORM_TENANT_ID, AuditChain.TENANT, first_seq, first_previous, last.seq, last.hash)


def rehashed(events):
    """What somebody makes who can write every table and knows how rows are hashed."""
    done = []
    for event in events:
        previous = done[-1].hash if done else event.previous
        made = replace(event, previous=previous)
        done.append(replace(made, hash=hash_of(made)))
    return done


def found(events, head, checkpoints=()):
    return {(fault.kind.value, fault.first, fault.last) for fault in verify_chain(head, events, checkpoints)}


@given(TEXTS)
def test_a_chain_that_was_left_alone_holds(texts):
    """Also against every checkpoint of it, and after its beginning was cut off."""
    events = chained(texts)
    points = [Checkpoint(event.seq, event.hash) for event in events]
    assert verify_chain(head_of(events), events, points) == []
    assert verify_chain(ChainHead(PLATFORM_TENANT_ID, AuditChain.TENANT), []) == []


@given(TEXTS, st.data())
def test_a_beginning_that_was_let_go_needs_an_event(texts, data):
    """With the number and the hash that the chain begins with; otherwise the missing rows are named."""
    cut = data.draw(st.integers(1, len(texts)))
    before = chained(texts)[cut - 1]
    for first, previous, holds in (
        (cut + 1, before.hash.hex(), True),
        (cut, before.hash.hex(), False),
        (cut + 1, "00" * 32, False),
    ):
        entry = AuditEntry("audit.retain", detail={"first_seq": first, "first_prev_hash": previous})
        events = chained([*texts, event_text(entry, ChangeMeta("test"), None), "later"])
        kept = events[cut:]
        faults = found(kept, head_of(events, cut + 1, before.hash), [Checkpoint(events[0].seq, events[0].hash)])
        assert faults == (set() if holds else {("removed", 1, cut)})
    events = chained([*texts, '{"action":"audit.retain"}', "audit.retain"])
    assert ("removed", 1, cut) in found(events[cut:], head_of(events, cut + 1, before.hash))


@given(TEXTS, st.data())
def test_an_edited_row_is_named(texts, data):
    """Its text, its time, its hash or what it follows; and no other row."""
    events = chained(texts)
    head = head_of(events)
    at = data.draw(st.integers(0, len(events) - 1))
    row = events[at]
    edits = (
        replace(row, text=row.text + "x"),
        replace(row, at=row.at + timedelta(days=1)),
        replace(row, previous=bytes([row.previous[0] ^ 1]) + row.previous[1:]),
    )
    for edited in edits:
        assert found([*events[:at], edited, *events[at + 1 :]], head) == {("edited", row.seq, row.seq)}
    other_hash = replace(row, hash=bytes([row.hash[0] ^ 1]) + row.hash[1:])
    names = {(fault[1], fault[2]) for fault in found([*events[:at], other_hash, *events[at + 1 :]], head)}
    assert names == {(row.seq, row.seq)}


@given(TEXTS, st.data())
def test_a_row_that_was_edited_with_its_hash_is_named(texts, data):
    """The row behind it, or the chain's head, knows what its hash was."""
    events = chained(texts)
    at = data.draw(st.integers(0, len(events) - 1))
    edited = replace(events[at], text=events[at].text + "x")
    edited = replace(edited, hash=hash_of(edited))
    seq = edited.seq
    assert found([*events[:at], edited, *events[at + 1 :]], head_of(events)) == {("rewritten", seq, seq)}


@given(TEXTS, st.data())
def test_removed_rows_are_named(texts, data):
    """In the middle and at the beginning as missing, at the end as truncated."""
    events = chained(texts)
    first = data.draw(st.integers(0, len(events) - 1))
    last = data.draw(st.integers(first, len(events) - 1))
    kept = [*events[:first], *events[last + 1 :]]
    kind = "truncated" if last == len(events) - 1 else "removed"
    assert found(kept, head_of(events)) == {(kind, first + 1, last + 1)}


@given(TEXTS, st.data())
def test_an_inserted_row_is_named(texts, data):
    """One with a number that there is already, however well it is made; and one behind the head."""
    events = chained(texts)
    at = data.draw(st.integers(0, len(events) - 1))
    row = events[at]
    fake = replace(row, text="inserted", at=row.at + timedelta(microseconds=1))
    fake = replace(fake, hash=hash_of(fake))
    assert found([*events[: at + 1], fake, *events[at + 1 :]], head_of(events)) == {("inserted", row.seq, row.seq)}
    behind = chained([*texts, "more"])
    assert found(behind, head_of(events)) == {("inserted", len(behind), len(behind))}


@given(TEXTS.filter(lambda texts: len(set(texts)) > 1), st.data())
def test_rows_that_changed_places_are_named(texts, data):
    """Whole rows that took each other's number, and rows that hold what the other said."""
    events = chained(texts)
    one = data.draw(st.integers(0, len(events) - 1))
    other = data.draw(st.integers(0, len(events) - 1).filter(lambda at: texts[at] != texts[one]))
    numbers = list(events)
    numbers[one], numbers[other] = replace(events[other], seq=one + 1), replace(events[one], seq=other + 1)
    for swapped in (numbers, _texts_swapped(events, one, other)):
        named = {(fault.kind, fault.first) for fault in verify_chain(head_of(events), swapped)}
        assert {(FaultKind.MOVED, one + 1), (FaultKind.MOVED, other + 1)} <= named
        assert {row for _, row in named} <= {one + 1, other + 1, one, other}


def _texts_swapped(events, one, other):
    swapped = list(events)
    swapped[one] = replace(events[one], text=events[other].text)
    swapped[other] = replace(events[other], text=events[one].text)
    return swapped


@given(TEXTS, st.data())
def test_a_chain_that_was_made_anew_is_found_by_a_checkpoint(texts, data):
    """All hashes and the head fit each other; what was told to somebody else does not."""
    events = chained(texts)
    at = data.draw(st.integers(0, len(events) - 1))
    points = [Checkpoint(event.seq, event.hash) for event in events]
    forged = rehashed([*events[:at], replace(events[at], text=events[at].text + "x"), *events[at + 1 :]])
    assert found(forged, head_of(forged)) == set()
    first_wrong = min(fault[2] for fault in found(forged, head_of(forged), points))
    assert first_wrong == at + 1
    assert found(forged, head_of(forged), points[-1:]) == {("rewritten", 1, len(events))}


@given(TEXTS, st.data())
def test_a_tail_that_was_removed_with_the_head_is_found_by_a_checkpoint(texts, data):
    """Also when nothing is left."""
    events = chained(texts)
    left = data.draw(st.integers(0, len(events) - 1))
    kept = events[:left]
    head = head_of(kept) if kept else ChainHead(PLATFORM_TENANT_ID, AuditChain.TENANT)
    assert found(kept, head) == set()
    last = events[-1]
    assert found(kept, head, [Checkpoint(last.seq, last.hash)]) == {("truncated", left + 1, last.seq)}


def test_an_export_without_its_last_line_is_incomplete():
    """A transfer that broke off looks like no attack, nor like a chain that holds."""
    events = chained(["a", "b"])
    from tenancy.audit_verification import ChainVerifier

    verifier = ChainVerifier(1, NO_HASH)
    for event in events:
        verifier.take(event)
    [fault] = verifier.end(None)
    assert fault.kind is FaultKind.INCOMPLETE
    assert list(shown([fault])) == ["row 2 incomplete: the export ends here without its last line"]


@given(TEXTS)
def test_lines_say_what_was_exported(texts):
    """Any text comes back exactly, so the hash holds."""
    events = chained(texts)
    head = head_of(events)
    assert read_line(begin_line(head)) == Begin(PLATFORM_TENANT_ID, AuditChain.TENANT, 1, NO_HASH)
    assert read_line(end_line(head)) == head
    for event in events:
        line = event_line(event, {"address": "192.0.2.7"})
        assert line.count(b"\n") == 1
        assert read_line(line) == event


BAD_LINES = [
    b"",
    b"[]",
    b"7",
    b"{}",
    b'{"type": "event"}',
    b"\xff",
    begin_line(ChainHead(PLATFORM_TENANT_ID, AuditChain.TENANT)).replace(b'"format":1', b'"format":2'),
    end_line(ChainHead(PLATFORM_TENANT_ID, AuditChain.TENANT)).replace(b'"end"', b'"other"'),
    event_line(chained(["a"])[0]).replace(b'"event":"a"', b'"event":{}'),
    event_line(chained(["a"])[0]).replace(b"2026-03-01T12", b"2026-03-01 12"),
]


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_line_that_no_export_has_is_refused(line):
    """Never guessed at."""
    with pytest.raises(BadLineError):
        read_line(line)


def test_anybody_can_compute_a_hash():
    """The recipe of the documentation, with nothing of ours."""
    import hashlib

    [event] = chained([event_text(AuditEntry("policy.change"), ChangeMeta("key:test"), 7)])
    line = json.loads(event_line(event))
    recipe = "\n".join(
        [
            "kasbah-audit-1",
            line["tenant"],
            line["chain"],
            str(line["seq"]),
            line["at"],
            line["prev_hash"],
            line["event"],
        ]
    )
    assert hashlib.sha256(recipe.encode()).hexdigest() == line["hash"]
    assert show_time(event.at) == "2026-03-01T12:00:00.000000Z"
