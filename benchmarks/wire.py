"""AuthZEN requests as bytes, and the shape in which the servers beside Kasbah parse them."""

from collections.abc import Sequence
from typing import Any

import msgspec

from benchmarks.http_load import Prepared
from benchmarks.workload import Question


class Entity(msgspec.Struct):
    """A subject or a resource."""

    type: str
    id: str
    properties: dict[str, Any] = {}


class Action(msgspec.Struct):
    """An action."""

    name: str
    properties: dict[str, Any] = {}


class Evaluation(msgspec.Struct):
    """The body of an access evaluation request."""

    subject: Entity
    action: Action
    resource: Entity
    context: dict[str, Any] = {}


def single(question: Question, key: str, *headers: str) -> Prepared:
    """Return one access evaluation request, with more headers."""
    return Prepared(_request("/access/v1/evaluation", body_of(question), key, *headers), int(question.allowed))


def batch(questions: Sequence[Question], key: str) -> Prepared:
    """Return one access evaluations request that asks all questions."""
    body = {"evaluations": [body_of(question) for question in questions]}
    return Prepared(_request("/access/v1/evaluations", body, key), sum(question.allowed for question in questions))


def body_of(question: Question) -> dict[str, Any]:
    """Return the body of an access evaluation request."""
    subject_type, _, subject_id = question.subject.partition(":")
    resource_type, _, resource_id = question.resource.partition(":")
    return {
        "subject": {"type": subject_type, "id": subject_id},
        "action": {"name": question.action},
        "resource": {"type": resource_type, "id": resource_id},
    }


def _request(path: str, body: dict[str, Any], key: str, *headers: str) -> bytes:
    data = msgspec.json.encode(body)
    more = "".join(f"{header}\r\n" for header in headers)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: benchmark\r\nAccept: */*\r\n{more}"
        f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode("ascii") + data
