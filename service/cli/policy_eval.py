"""`kasbah policy eval`: answers positional Casbin requests from a model and a policy file, without a server."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import click

from authz.casbin_csv import PolicySyntaxError, read_policy
from authz.casbin_oracle import CasbinOracle, parse_model, rows_as_casbin_reads, without_definition_comments
from authz.errors import ModelError
from authz.matching import MATCHING_FUNCTIONS
from authz.positional import Answer, PolicyRow, PositionalEngine, RoleFunction, Unanswered
from service.cli.output import ExitCode, fail, printable

MAX_WARNINGS = 20
BYTE_ORDER_MARK = "\ufeff"

EPILOG = """\b
Example: requests on standard input, one JSON array a line
  echo '["alice", "data1", "read"]' |
    kasbah policy eval --model model.conf --policy policy.csv
  {"decision": true, "rules": ["policy.csv:1"]}

\b
Objects are attributes: ["alice", {"Owner": "alice"}, "read"] is what r.obj.Owner asks.
Each answer is {"decision": …, "rules": […]} or {"error": "…"}; an error is never an allow.
Exits with 1 when model or policy cannot be used, or when --compare finds differences."""


class RoleFunctionType(click.ParamType[RoleFunction]):
    """`g2=role:keyMatch2`."""

    name = "DEFINITION=role|domain:FUNCTION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> RoleFunction:
        """Return the parsed option."""
        if isinstance(value, RoleFunction):
            return value
        definition, equals, rest = str(value).partition("=")
        side, colon, function = rest.partition(":")
        if not definition or not equals or not colon or side not in {"role", "domain"}:
            self.fail(f"`{value}` is not of the form g2=role:keyMatch2 or g=domain:keyMatch", param, ctx)
        if function not in MATCHING_FUNCTIONS:
            self.fail(f"unknown function `{function}`; known: {', '.join(MATCHING_FUNCTIONS)}", param, ctx)
        return RoleFunction(definition, side, function)


@click.command(epilog=EPILOG)
@click.option(
    "--model",
    "model_path",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Casbin's model.conf.",
)
@click.option(
    "--policy",
    "policy_path",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Casbin's policy.csv.",
)
@click.option(
    "--requests",
    type=click.File("r", encoding="utf-8", lazy=False),
    default="-",
    show_default="standard input",
    help="One JSON array a line.",
)
@click.option(
    "--function",
    "functions",
    multiple=True,
    type=RoleFunctionType(),
    help="Read role names, or domains, of a role definition as patterns: g2=role:keyMatch2. May be repeated.",
)
@click.option("--context", default="", metavar="SUFFIX", help="Use r2, p2, m2, … for the suffix 2 (EnforceContext).")
@click.option("--compare", is_flag=True, help="Run PyCasbin beside it, list differences, and exit with 1 if any.")
def evaluate(
    model_path: Path,
    policy_path: Path,
    requests: TextIO,
    functions: tuple[RoleFunction, ...],
    context: str,
    *,
    compare: bool,
) -> None:
    """Answer positional Casbin requests as Casbin does, with the rules that determined each answer."""
    model_text, policy_text = _read(model_path), _read(policy_path)
    model_text, marked = model_text.removeprefix(BYTE_ORDER_MARK), model_text.startswith(BYTE_ORDER_MARK)
    prepared = _prepare(model_text, policy_text, policy_path.name, functions, context)
    if prepared.problem:
        click.secho(f"error: {printable(prepared.problem)}", fg="red", err=True)
    elif prepared.engine is not None:
        _warn(prepared.engine.warnings())
    beside = None
    if compare:
        oracle = CasbinOracle(model_text, prepared.rows, functions=functions, context=context)
        notes = _model_notes(model_text, model_path.name, marked=marked)
        beside = _Beside(oracle, notes + _reading_notes(policy_text, policy_path.name, prepared.rows))
        _warn(beside.notes)
    if requests.isatty():
        click.echo("waiting for requests on standard input: one JSON array a line, end with Ctrl-D", err=True)
    count = 0
    for count, (text, request) in enumerate(_requests(requests), start=1):
        answer = request if isinstance(request, Unanswered) else prepared.decide(request)
        line = _as_data(answer)
        if beside is not None and not isinstance(request, Unanswered):
            line |= beside.compare(count, text, request, answer)
        click.echo(json.dumps(line))
    if beside is not None:
        click.echo(f"{count} requests, {beside.differences} differences from PyCasbin", err=True)
    if prepared.problem or (beside is not None and beside.differences):
        raise SystemExit(ExitCode.FINDINGS)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An engine, or why there is none; every request is then answered with that."""

    engine: PositionalEngine | None
    rows: Sequence[PolicyRow]
    problem: str = ""

    def decide(self, request: Sequence[object]) -> Answer | Unanswered:
        return self.engine.decide(request) if self.engine is not None else Unanswered(self.problem)


def _prepare(
    model_text: str, policy_text: str, name: str, functions: Sequence[RoleFunction], context: str
) -> _Prepared:
    rows: Sequence[PolicyRow] = ()
    try:
        rows = read_policy(policy_text, name)
        engine = PositionalEngine(
            parse_model(model_text),
            rows,
            functions=functions,
            context=context,
            clock=datetime.now,  # as PyCasbin: local time without zone
        )
    except (ModelError, PolicySyntaxError) as error:
        return _Prepared(None, rows, str(error))
    return _Prepared(engine, rows, engine.problem or "")


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        fail(f"{path} is not UTF-8: {error}", ExitCode.USAGE)
    except OSError as error:
        fail(f"{path} cannot be read: {error}", ExitCode.USAGE)


def _warn(notes: Sequence[str]) -> None:
    for note in notes[:MAX_WARNINGS]:
        click.secho(f"warning: {printable(note)}", fg="yellow", err=True)
    if len(notes) > MAX_WARNINGS:
        click.secho(f"warning: and {len(notes) - MAX_WARNINGS} more", fg="yellow", err=True)


def _requests(lines: Iterable[str]) -> Iterator[tuple[str, list[object] | Unanswered]]:
    for line in _lines(lines):
        text = line.strip()
        if not text:
            continue
        try:
            request = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        except ValueError as error:
            yield text, Unanswered(f"the request is no JSON: {error}")
        except RecursionError:
            yield text, Unanswered("the request is nested too deeply")
        else:
            yield text, request if isinstance(request, list) else Unanswered("a request is one JSON array")


def _lines(lines: Iterable[str]) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError as error:
        fail(f"the requests are not UTF-8: {error}", ExitCode.USAGE)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice in an object")
    return found


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _as_data(answer: Answer | Unanswered) -> dict[str, object]:
    if isinstance(answer, Unanswered):
        return {"error": answer.error}
    return {"decision": answer.decision, "rules": list(answer.rules)}


class _Beside:
    """PyCasbin with the same model and the same rows; what its own CSV code reads otherwise is noted."""

    def __init__(self, oracle: CasbinOracle, notes: list[str]) -> None:
        self._oracle = oracle
        self.notes = notes
        self.differences = 0

    def compare(self, number: int, text: str, request: list[object], answer: Answer | Unanswered) -> dict[str, object]:
        """Return what is added to the line of an answer that differs."""
        theirs = self._oracle.ask(request)
        decision = answer.decision if isinstance(answer, Answer) else None
        if decision is theirs.decision:
            return {}
        self.differences += 1
        ours = _word(decision, answer.error if isinstance(answer, Unanswered) else "")
        said = _word(theirs.decision, theirs.error)
        click.echo(f"difference: request {number} {printable(text)}: Kasbah {ours}, PyCasbin {said}", err=True)
        return {"pycasbin": {"error": theirs.error} if theirs.decision is None else {"decision": theirs.decision}}


def _model_notes(text: str, name: str, *, marked: bool) -> list[str]:
    """Return where PyCasbin reads a model file otherwise than it is read for both sides here."""
    notes = [f"{name}: PyCasbin itself does not read a file that begins with a byte order mark"] if marked else []
    read = without_definition_comments(text)
    for number, (line, plain) in enumerate(zip(text.split("\n"), read.split("\n"), strict=True), start=1):
        if line != plain:
            definition, comment = plain.strip(), line[len(plain) :].strip()
            notes.append(
                f"{name}:{number}: PyCasbin itself takes `{comment}` for a part of the last name of `{definition}`: it "
                "may not see that column, and let denies pass"
            )
    return notes


def _reading_notes(text: str, name: str, rows: Sequence[PolicyRow]) -> list[str]:
    """Return where PyCasbin's file adapter, which knows no quotes, reads a line otherwise than RFC 4180 says."""
    try:
        theirs = {row.source: row for row in rows_as_casbin_reads(text, name)}
    except ModelError as error:
        return [str(error)]
    notes = []
    for row in rows:
        other = theirs.get(row.source)
        if other != row:
            fields = "nothing" if other is None else json.dumps([other.kind, *other.values], ensure_ascii=False)
            why = "no byte order mark" if other is not None and other.kind.startswith(BYTE_ORDER_MARK) else "no quotes"
            notes.append(f"{row.source}: PyCasbin's own CSV code knows {why} and reads {fields}")
    return notes


def _word(decision: bool | None, error: str) -> str:  # noqa: FBT001 - one of three answers
    if decision is None:
        return f"error ({printable(error)})"
    return "allows" if decision else "denies"
