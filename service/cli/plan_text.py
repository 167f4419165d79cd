"""A plan as text for people."""

from typing import Any

import click
import msgspec

from authz.policy_files import PolicyColumns, UnwritableRowError, write_policy_csv
from authz.rules import BASE_SLUG, EntityKind, Owner, RoleLink, Rule
from service.cli.output import printable
from service.cli.policy_plan import Planned
from service.http.policy_wire import RowWire, from_wire

MAX_ROWS = 40
MAX_EXAMPLES = 40

_COLUMNS = (
    PolicyColumns(),
    PolicyColumns(("sub", "dom", "obj", "act", "eft", "cond", "priority"), {"g": True, "g2": True}),
    PolicyColumns(("priority", "sub", "dom", "obj", "act", "eft", "cond"), {"g": True, "g2": True}),
)


def print_plan(planned: Planned) -> None:
    """Print the plan: rows, conflicts, and who gains and loses what."""
    if planned.model is not None:
        click.secho("~ model.conf changes, for every tenant", fg="yellow")
    for part in planned.parts:
        _print_part(part.slug, part.plan)
    for line in planned.skipped:
        click.secho(f"skipped {printable(line)}", fg="yellow")
    for slug in planned.unknown:
        click.secho(f"{slug}: no such tenant; create it with `kasbah tenant create {slug}`", fg="red")


def _print_part(slug: str, plan: dict[str, Any]) -> None:
    counts = [f"{plan[name]['count']} {word}" for name, word in _COUNTED if plan[name]["count"]]
    if plan["moved"]:
        counts.append(f"{plan['moved']} only moved to other lines")
    click.secho(f"{slug} (revision {plan['revision']}): {', '.join(counts) or 'nothing to do'}", bold=True)
    for subject, username in list(plan.get("accounts", {}).items())[:MAX_ROWS]:
        click.echo(printable(f"  {subject} is the account {username}"))
    for name, sign, colour in (("added", "+", "green"), ("removed", "-", "red")):
        _print_rows(slug, plan[name], sign, colour)
    for row in plan["changed"]["rows"][:MAX_ROWS]:
        click.secho(f"  ~ {shown_row(slug, row['before'])}  ->  {shown_row(slug, row['after'])}", fg="yellow")
    _print_left(plan["changed"], "changed rows")
    for row in plan["conflicts"]["rows"][:MAX_ROWS]:
        click.secho(f"  ! {shown_row(slug, row['desired'])}: the admin API owns this row", fg="red", bold=True)
    _print_left(plan["conflicts"], "conflicts")
    _print_patterns(plan["patterns"])
    for flips in plan["flips"]:
        _print_flips(flips, named=slug == BASE_SLUG)


_COUNTED = (("added", "to add"), ("removed", "to remove"), ("changed", "to change"), ("conflicts", "in conflict"))


def _print_rows(slug: str, listed: dict[str, Any], sign: str, colour: str) -> None:
    for row in listed["rows"][:MAX_ROWS]:
        click.secho(f"  {sign} {shown_row(slug, row)}", fg=colour)
    _print_left(listed, "rows")


def _print_left(listed: dict[str, Any], what: str) -> None:
    left = listed["count"] - min(len(listed["rows"]), MAX_ROWS)
    if left > 0:
        click.echo(f"    … and {left:,} more {what}")


def _print_patterns(patterns: dict[str, Any]) -> None:
    for entry in patterns["rows"][:MAX_ROWS]:
        rule = entry["rule"]
        gains = (rule.get("effect", "allow") == "allow") == (entry["change"] == "added")
        verb = "gains" if gains else "loses"
        depends = ", on a condition" if rule.get("condition") else ""
        text = f"  pattern: {rule['subject']} {verb} {rule['action']} on {rule['resource']}{depends}"
        click.echo(printable(text) + ", names that are listed nowhere included")
    _print_left(patterns, "patterns")


def _print_flips(flips: dict[str, Any], *, named: bool) -> None:
    total = flips["gained"] + flips["lost"] + flips["conditional"]
    if not total and flips["complete"]:
        return
    where = f" in {flips['tenant']}" if named else ""
    least = "" if flips["complete"] else "at least "
    click.echo(
        f"  answers that turn over{where}: {least}{flips['gained']:,} gained{_by_type(flips['gaining_subjects'])}, "
        f"{flips['lost']:,} lost{_by_type(flips['losing_subjects'])}, {flips['conditional']:,} conditional"
    )
    if flips["note"]:
        click.secho(f"    {printable(flips['note'])}", fg="yellow")
    for flip in flips["examples"][:MAX_EXAMPLES]:
        click.echo(f"    {_shown_flip(flip)}")
    left = total - min(len(flips["examples"]), MAX_EXAMPLES)
    if left > 0:
        click.echo(f"    … and {left:,} more")


def _by_type(counted: dict[str, int]) -> str:
    told = [f"{number:,} {kind}{'' if number == 1 else 's'}" for kind, number in counted.items()]
    return f" by {', '.join(told)}" if told else ""


def _shown_flip(flip: dict[str, str]) -> str:
    if "depends" in (flip["before"], flip["after"]):
        verb = f"conditional ({flip['before']} -> {flip['after']}):"
        text = f"{verb} {flip['subject']} {flip['action']} {flip['resource']}"
    else:
        verb = "gains" if flip["after"] == "allow" else "loses"
        text = f"{flip['subject']} {verb} {flip['action']} on {flip['resource']}"
    return printable(text)


def shown_row(slug: str, shown: dict[str, Any]) -> str:
    """Return a row as its policy file would say it, with its place."""
    source = shown.get("source")
    place = f"    {source['file']}:{source['line']}" if source else ""
    return printable(_row_text(slug, shown)) + printable(place)


def _row_text(slug: str, shown: dict[str, Any]) -> str:
    if shown.get("type") == "entity":
        section = "subjects" if shown["kind"] == EntityKind.SUBJECT else "resources"
        return f"{section}: {shown['ref']}: {msgspec.json.encode(shown['properties']).decode()}"
    row = from_wire(msgspec.convert(shown, RowWire), owner=Owner.FILES, base=slug == BASE_SLUG)
    for columns in _COLUMNS:
        try:
            rules, links = ([row], []) if isinstance(row, Rule) else ([], [row])
            text = write_policy_csv(
                rules, [link for link in links if isinstance(link, RoleLink)], slug=slug, columns=columns
            )
        except UnwritableRowError:
            continue
        return text.rstrip("\n")
    return msgspec.json.encode(shown).decode()
