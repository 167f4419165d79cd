"""What the fast way takes for a plain body has every member once and none besides, however it is written."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from authz.ports import SubjectRecord
from authz.request import Ref
from authz.snapshot import Facts
from service.edge_errors import EdgeError
from service.fast_batch import decide_items
from service.http.authzen_batch import decode_batch, decode_loose_batch, is_plain_batch
from service.http.authzen_wire import check_names, decode_bare, decode_evaluation
from tests.support.policies import NOW, policy

TEXTS = [*["a", "b", "user", "x:y", ":"] * 5, "\\u003a", "a\\u003ab", "\\\\", '\\"', "\\u0061", "é", ""]
TYPES = [*["a", "b", "user"] * 8, "x:y", "\\u0061", ""]
NAMES = ["x", "id", "type", "name", "a:b", "i\\u0064", "properties"]
SUBJECT, ACTION, RESOURCE = ("subject", ("type", "id")), ("action", ("name",)), ("resource", ("type", "id"))


@st.composite
def objects(draw: st.DrawFn, members: list[str]) -> str:
    """Draw the text of an object of these members, now and then with one too many."""
    more = [
        f'"{draw(st.sampled_from(NAMES))}":{value}'
        for value in draw(st.lists(st.sampled_from(['"a"', '"a:b"', "{}", '{"a":1}', "null", "[1]"]), max_size=1))
    ]
    if draw(st.integers(0, 9)):
        more = []
    texts = [*members, *more]
    if draw(st.booleans()):
        texts.reverse()
    return "{" + draw(st.sampled_from([",", " , "])).join(texts) + "}"


@st.composite
def entities(draw: st.DrawFn, which: list[tuple[str, tuple[str, ...]]]) -> list[str]:
    """Draw the texts of members that are entities."""
    found = []
    for name, members in which:
        values = [f'"{m}":"{draw(st.sampled_from(TYPES if m == "type" else TEXTS))}"' for m in members]
        found.append(f'"{name}":{draw(objects(values))}')
    return found


WHOLE = entities([SUBJECT, ACTION, RESOURCE])
PARTS = st.lists(st.sampled_from([SUBJECT, ACTION, RESOURCE]), max_size=4).flatmap(entities)


@st.composite
def batches(draw: st.DrawFn) -> str:
    """Draw the text of a batch."""
    items = [draw(objects(draw(WHOLE | WHOLE | WHOLE | PARTS))) for _ in range(draw(st.integers(1, 2)))]
    top = draw(st.builds(list) | PARTS)
    top.append(f'"evaluations":[{",".join(items)}]')
    return draw(objects(top))


def members_of(text: str) -> int:
    """Return how many members a JSON text has at all depths, counting each one that is repeated."""
    count = 0

    def note(pairs: list[tuple[str, Any]]) -> None:
        nonlocal count
        count += len(pairs)

    json.loads(text, object_pairs_hook=note)
    return count


@settings(max_examples=200, deadline=None)
@given(WHOLE.flatmap(objects))
def test_a_bare_question_has_eight_members(text: str) -> None:
    """And says what the one parser says."""
    wire = decode_bare(text.encode())
    if wire is None:
        return
    assert members_of(text) == 8
    try:
        check_names(wire)
    except EdgeError:
        return
    assert decode_evaluation(text.encode()) == wire


STATE = policy("p user:a user:b a\np user:user a:b b deny")


def facts_of(subject: Ref) -> Facts:
    return STATE.snapshot.facts(subject, SubjectRecord(), NOW)


@settings(max_examples=200, deadline=None)
@given(batches())
def test_a_batch_whose_members_are_as_many_as_were_used_has_no_others(text: str) -> None:
    """What the count lets pass, the one parser lets pass too, and all of its items are questions."""
    body = text.encode()
    wire = decode_loose_batch(body)
    if wire is None:
        return
    try:
        decided = decide_items(wire, STATE, lambda subject: facts_of(Ref(f"{subject.type}:{subject.id}")))
    except EdgeError:
        return
    if decided is None or body.count(b":") != decided.members:
        return
    assert members_of(text) == decided.members
    assert is_plain_batch(body)
    batch = decode_batch(body, may_assert=True)
    assert batch.items is not None
    assert len(batch.requests()) == len(batch.items) == len(json.loads(decided.content)["evaluations"])
