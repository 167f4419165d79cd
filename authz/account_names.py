"""`user:name=alice` and `service:name=billing` in policy files: accounts by name, where everything else says their ids.

What is stored is the id, so that a rename changes no rule. A name is looked up when a plan or an apply reads the files,
at the revision that they are for; files alone (lint, test) take it for a subject like others.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from authz.errors import InvalidRowError, LimitExceededError, UnknownAccountNameError
from authz.request import Ref
from authz.row_changes import describe
from authz.rules import EntityKind, RoleLink, Row, Rule, StoredEntity
from authz.served_names import NAMED_ACCOUNTS

MAX_NAMES = 5_000
"""Different names in the files of one tenant; more accounts get their roles through the API."""

MAX_TOLD = 20


def account_names(rows: Iterable[Row]) -> dict[str, Row]:
    """Return every account that rows mention by name as a subject, as they write it, with the first row that does.

    Raises:
        InvalidRowError: a pattern of names: stored ids have no names that it could match.
        LimitExceededError: more than `MAX_NAMES`.
    """
    found: dict[str, Row] = {}
    for row in rows:
        subject = _subject_of(row)
        if not subject.startswith(NAMED_ACCOUNTS):
            continue
        if subject.endswith("*"):
            raise InvalidRowError(f"{describe(row)}: the name of an account is exact, without `*`")
        found.setdefault(subject, row)
        if len(found) > MAX_NAMES:
            raise LimitExceededError(f"the files name more than {MAX_NAMES} accounts")
    return found


def name_in(subject: str) -> str:
    """Return the name in `user:name=alice` or `service:name=billing`."""
    return subject.partition("=")[2]


def with_ids(rows: Sequence[Row], subjects: Mapping[str, Ref]) -> list[Row]:
    """Return rows with the subject of each account instead of its name.

    Args:
        rows: As files say them.
        subjects: The subject that each of `account_names` stands for.

    Raises:
        UnknownAccountNameError: names that stand for nobody, each with file and line.
    """
    unknown = [(name, row) for name, row in account_names(rows).items() if name not in subjects]
    if unknown:
        told = [f"{describe(row)}: no account is named `{name_in(name)}`" for name, row in unknown[:MAX_TOLD]]
        more = len(unknown) - MAX_TOLD
        raise UnknownAccountNameError("; ".join(told + ([f"and {more} more"] if more > 0 else [])))
    return _mapped(rows, lambda subject: subjects[subject] if subject.startswith(NAMED_ACCOUNTS) else subject)


def with_names(rows: Sequence[Row], names: Mapping[Ref, str]) -> list[Row]:
    """Return rows with `user:name=…` or `service:name=…` instead of the subject of each account whose name is given."""
    if not names:
        return list(rows)

    def named(subject: Ref) -> Ref:
        name = names.get(subject)
        return subject if name is None else Ref(f"{subject.partition(':')[0]}:name={name}")

    return _mapped(rows, named)


def subjects_of(rows: Iterable[Row]) -> set[Ref]:
    """Return every subject that rows mention exactly."""
    return {subject for row in rows if (subject := _subject_of(row)) and not subject.endswith("*")}


def check_no_name(subject: str) -> None:
    """Refuse a name that nothing will look up: it would be a subject of its own, which is nobody.

    Raises:
        InvalidRowError: `user:name=…`, `service:name=…`.
    """
    if subject.startswith(NAMED_ACCOUNTS):
        kind = subject.partition(":")[0]
        raise InvalidRowError(
            f"accounts are named in the policy files of their tenant only: write `{kind}:` and the id"
        )


def _mapped(rows: Sequence[Row], subject_for: Callable[[Ref], Ref]) -> list[Row]:
    found: list[Row] = []
    for row in rows:
        subject = _subject_of(row)
        other = subject_for(subject) if subject else subject
        if other == subject:
            found.append(row)
            continue
        match row:
            case Rule():
                found.append(replace(row, subject=other))
            case RoleLink():
                found.append(replace(row, member=other))
            case StoredEntity():
                found.append(replace(row, ref=other))
    return found


def _subject_of(row: Row) -> Ref:
    """Return the subject that a row is about; empty when it is about none."""
    match row:
        case Rule():
            return Ref(row.subject)
        case RoleLink():
            return row.member if row.kind == "g" else Ref("")
        case StoredEntity():
            return row.ref if row.kind is EntityKind.SUBJECT else Ref("")
