"""From the text of a `policy.csv` to typed rows: every row alone; lint looks at them together."""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from authz.findings import Finding, Severity, in_order
from authz.policy_files.columns import PolicyColumns
from authz.policy_files.csv_text import CsvFault, CsvRecord, field_positions, offset_position, scan, split_lines
from authz.policy_files.row_hints import kind_hint, name_fault
from authz.policy_files.times import parse_time
from authz.request import CONTROL_PATTERN, InvalidNameError, Ref
from authz.rules import BASE_DOMAIN, BASE_SLUG, MAX_PRIORITY, Effect, RoleLink, Rule, Source
from authz.served_names import (
    BIDIRECTIONAL,
    NAMED_ACCOUNTS,
    ROLE_TYPES,
    StarError,
    check_condition_text,
    check_name,
    check_pattern,
    check_role,
    check_rule_action,
    is_platform_resource,
    is_platform_role,
    is_scope,
)

_PRIORITY = re.compile(r"[0-9]{1,10}\Z")
_EFFECTS = {"": Effect.ALLOW, "allow": Effect.ALLOW, "deny": Effect.DENY}
# A lone carriage return ends a line in editors but not here: what shows as a rule could be part of a comment.
_NEVER_IN_FILES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_LINK_KIND = re.compile(r"g[0-9]*\Z")
_MAX_HIDDEN = 1000
"""At most this many characters are reported that must not stand in a file: one that is no text has millions."""

Check = Callable[[str], None]


@dataclass(slots=True)
class ParsedPolicy:
    """Rows and findings of one `policy.csv`."""

    rules: list[Rule] = field(default_factory=list)
    links: list[RoleLink] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def parse_policy(text: str, slug: str, columns: PolicyColumns, *, built_in: bool = False) -> ParsedPolicy:
    """Read the rows of one tenant (or of `_base`); what cannot be read becomes a finding and no row.

    `built_in`: the text is packaged with Kasbah, and may speak of scopes.
    """
    reader = _PolicyReader(text, slug, columns, built_in=built_in)
    for item in scan(reader.parsed.lines):
        if isinstance(item, CsvFault):
            reader.report(item.line, item.column, "csv", item.message, item.hint)
        else:
            reader.read(item)
    reader.parsed.findings = in_order(reader.parsed.findings)
    return reader.parsed


class _PolicyReader:
    """Turns records into rows; names that were found good once are not checked again."""

    def __init__(self, text: str, slug: str, columns: PolicyColumns, *, built_in: bool) -> None:
        self.parsed = ParsedPolicy(lines=split_lines(text))
        self._built_in = built_in
        self._base = slug == BASE_SLUG
        self._domain = BASE_DOMAIN if self._base else slug
        self._path = f"{slug}/policy.csv"
        self._source = self._path if self._base else "policy.csv"
        self._columns = columns
        place = {name: place + 1 for place, name in enumerate(columns.rule)}
        self._place = place
        # Names come again and again: what was found good once is looked up.
        self._good: dict[Check, set[str]] = {
            check: set() for check in (check_pattern, check_rule_action, check_name, check_role, check_condition_text)
        }
        self._rule_places = (place["sub"], place["obj"], place["act"])
        self._unreadable = self._report_hidden_text(text)

    def report(self, line: int, column: int, code: str, message: str, hint: str) -> None:
        """Add an error at an exact place."""
        self.parsed.findings.append(Finding(self._path, line, column, code, Severity.ERROR, message, hint))

    def read(self, record: CsvRecord) -> None:
        """Add the row of `record`, or its findings."""
        kind = record.fields[0]
        if kind == "p":
            self._read_rule(record)
        elif kind in self._columns.links:
            self._read_link(record, kind, with_domain=self._columns.links[kind])
        else:
            self._report_kind(record, kind)

    def _read_rule(self, record: CsvRecord) -> None:
        fields = record.fields
        columns = self._columns
        most = len(columns.rule) + 1
        if not columns.required < len(fields) <= most:
            self._report_count(record, columns.required + 1, most, ("p", *columns.rule))
            return
        if len(fields) < most:
            fields = fields + [""] * (most - len(fields))
        place = self._place
        at_subject, at_resource, at_action = self._rule_places
        good = self._is_good(record, at_subject, check_pattern, "subject")
        good &= self._is_good(record, at_resource, check_pattern, "resource")
        good &= self._is_good(record, at_action, check_rule_action, "action")
        good &= "dom" not in place or self._is_own_domain(record, place["dom"])
        effect: Effect | None = Effect.ALLOW
        if "eft" in place:
            effect = _EFFECTS.get(fields[place["eft"]])
            if effect is None:
                self._report_effect(record, place["eft"])
        condition = None
        if "cond" in place and fields[place["cond"]]:
            good &= self._is_good(record, place["cond"], check_condition_text, "cond")
            condition = fields[place["cond"]]
        priority = None
        if "priority" in place:
            priority = self._priority(record, place["priority"])
            good &= priority is not None
        if not self._base:
            good &= self._is_tenants_own(record)
        good &= self._is_no_scope(record, at_subject)
        good &= self._is_account_name(record, at_subject)
        if good and effect is not None:
            subject, resource, action = fields[at_subject], fields[at_resource], fields[at_action]
            source = Source(self._source, record.line)
            rule = Rule(subject, resource, action, effect, condition, priority, self._base, source=source)
            self.parsed.rules.append(rule)

    def _read_link(self, record: CsvRecord, kind: str, *, with_domain: bool) -> None:
        fields = record.fields
        least = 4 if with_domain else 3
        names = (kind, "member", "role", "dom", "expires_at") if with_domain else (kind, "member", "role", "expires_at")
        if not least <= len(fields) <= least + 1:
            self._report_count(record, least, least + 1, names)
            return
        good = self._is_good(record, 1, check_name, "member" if kind == "g" else "resource")
        good &= self._is_good(record, 2, check_role if kind == "g" else check_name, "role" if kind == "g" else "group")
        good &= not with_domain or self._is_own_domain(record, 3)
        expires_at = None
        if len(fields) > least and fields[least]:
            try:
                expires_at = parse_time(fields[least])
            except ValueError as error:
                self._at(record, least, "bad-time", str(error), "write RFC 3339 in UTC, as in `2027-01-31T00:00:00Z`")
                good = False
        if good and self._base and kind == "g" and fields[1].partition(":")[0] not in ROLE_TYPES:
            message = f"`{fields[1]}` is no role: links of `_base` go from role to role"
            self._at(record, 1, "base-member", message, "give roles to subjects in the tenant's own policy.csv")
            good = False
        if good and not self._base:
            good = self._are_tenants_own(record)
        for place in (1, 2):
            good &= self._is_no_scope(record, place)
        good &= kind != "g" or self._is_account_name(record, 1)
        if good:
            source = Source(self._source, record.line)
            member, role = Ref(fields[1]), Ref(fields[2])
            self.parsed.links.append(RoleLink(member, role, kind, expires_at, self._base, source=source))

    def _is_good(self, record: CsvRecord, place: int, check: Check, what: str) -> bool:
        value = record.fields[place]
        known = self._good[check]
        if value in known:
            return True
        try:
            check(value)
        except StarError as error:
            line, column = offset_position(self.parsed.lines, self._position(record, place), error.offset)
            self.report(line, column, "misplaced-star", str(error), "`*` stands last, or alone")
            return False
        except InvalidNameError as error:
            hidden = CONTROL_PATTERN.search(value.replace("\n", "")) or BIDIRECTIONAL.search(value)
            if not self._unreadable or hidden is None:  # else reported with its exact place already
                message, hint = name_fault(value, what, str(error))
                self._at(record, place, "condition" if what == "cond" else "bad-name", message, hint)
            return False
        known.add(value)
        return True

    def _is_own_domain(self, record: CsvRecord, place: int) -> bool:
        domain = record.fields[place]
        if domain == self._domain:
            return True
        if domain == BASE_DOMAIN:
            message = "`*` speaks for every tenant, which only `_base` may"
            self._at(record, place, "star-domain", message, f"write `{self._domain}`, or move the row to `_base`")
        else:
            message = f"the domain `{domain}` is not that of this directory"
            self._at(record, place, "tenant-mismatch", message, f"write `{self._domain}`")
        return False

    def _is_tenants_own(self, record: CsvRecord) -> bool:
        resource, subject = record.fields[self._place["obj"]], record.fields[self._place["sub"]]
        good = True
        if is_platform_resource(resource):
            message = f"`{resource}` belongs to the platform: tenants write no rules on it"
            hint = "give a role of `_base` instead, such as `role:tenant-admin`"
            self._at(record, self._place["obj"], "platform-resource", message, hint)
            good = False
        if is_platform_role(subject):
            self._report_platform_role(record, self._place["sub"])
            good = False
        return good

    def _are_tenants_own(self, record: CsvRecord) -> bool:
        good = True
        for place in (1, 2):
            if is_platform_role(record.fields[place]):
                self._report_platform_role(record, place)
                good = False
            if is_platform_resource(record.fields[place]):
                message = f"`{record.fields[place]}` belongs to the platform: tenants write no rows on it"
                self._at(record, place, "platform-resource", message, "remove the row")
                good = False
        return good

    def _is_no_scope(self, record: CsvRecord, place: int) -> bool:
        if self._built_in or not is_scope(record.fields[place]):
            return True
        message = f"`{record.fields[place]}` is a scope of API keys: what scopes may do is built in"
        self._at(record, place, "key-scope", message, "name what you mean by another type")
        return False

    def _is_account_name(self, record: CsvRecord, place: int) -> bool:
        """Whether a subject names no account, or names one as it can be looked up."""
        text = record.fields[place]
        if not text.startswith(NAMED_ACCOUNTS):
            return True
        if self._base:
            message, hint = "the base knows no accounts: every tenant has its own", "give a role in the tenant's files"
        elif text.endswith("*"):
            message, hint = f"`{text}` is a pattern of names, and what is stored are ids", "name each account"
        elif text in NAMED_ACCOUNTS:
            message, hint = "the name is missing", f"write it behind the `=`, as in `{text}alice`"
        else:
            return True
        self._at(record, place, "account-name", message, hint)
        return False

    def _priority(self, record: CsvRecord, place: int) -> int | None:
        text = record.fields[place]
        if _PRIORITY.match(text) is None or int(text) > MAX_PRIORITY:
            what = f"`{text}` is no priority" if text else "the priority is missing"
            hint = f"write a whole number from 0 to {MAX_PRIORITY}; lower ones are looked at first"
            self._at(record, place, "bad-priority", what, hint)
            return None
        return int(text)

    def _report_platform_role(self, record: CsvRecord, place: int) -> None:
        message = f"`{record.fields[place]}` is a role of the platform: tenants cannot refer to it"
        self._at(record, place, "platform-role", message, "use a role of the tenant's own, under another name")

    def _report_effect(self, record: CsvRecord, place: int) -> None:
        text = record.fields[place]
        near = difflib.get_close_matches(text.strip().lower(), ["allow", "deny"], n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else "write `allow` or `deny`"
        self._at(record, place, "unknown-effect", f"`{text}` is no effect", hint)

    def _report_kind(self, record: CsvRecord, kind: str) -> None:
        known = ["p", *self._columns.links]
        hint = f"rows start with {', '.join(f'`{word}`' for word in known)}"
        if _LINK_KIND.match(kind) or re.match(r"p[0-9]+\Z", kind):
            message = f"model.conf defines no `{kind}`"
        else:
            message = f"`{kind}` is no kind of row" if kind else "the first field, the kind of row, is empty"
            hint = kind_hint(kind, known) or hint
        self._at(record, 0, "unknown-kind", message, hint)

    def _report_count(self, record: CsvRecord, least: int, most: int, names: tuple[str, ...]) -> None:
        count = len(record.fields)
        columns = "1 column" if count == 1 else f"{count} columns"
        expected = str(least) if least == most else f"{least} to {most}"
        message = f"{columns} where `{names[0]}` has {expected}: {', '.join(names)}"
        hint = "a field with a comma in it needs quotes" if count > most else "trailing `eft`, `cond` may be left out"
        if names[0] != "p":
            hint = "a field with a comma in it needs quotes" if count > most else "only `expires_at` may be left out"
        self._at(record, min(most, count - 1), "column-count", message, hint)

    def _report_hidden_text(self, text: str) -> bool:
        """Report characters that make a file show as something else than it says; comments included."""
        if text.isascii() and _NEVER_IN_FILES.search(text.replace("\r\n", "\n")) is None:
            return False
        found = 0
        for number, line in enumerate(self.parsed.lines, 1):
            for match in _NEVER_IN_FILES.finditer(line):
                found += 1
                message = f"control character U+{ord(match.group()):04X}"
                hint = "end lines with a line feed (LF, or CR LF)" if match.group() == "\r" else "remove it"
                self.report(number, match.start() + 1, "control-character", message, hint)
                if found > _MAX_HIDDEN:
                    return True
            for match in BIDIRECTIONAL.finditer(line):
                found += 1
                message = f"U+{ord(match.group()):04X} makes text show in another order than it is read"
                self.report(number, match.start() + 1, "bidirectional-text", message, "remove it")
                if found > _MAX_HIDDEN:
                    return True
        return found > 0

    def _at(self, record: CsvRecord, place: int, code: str, message: str, hint: str) -> None:
        line, column = self._position(record, place)
        self.report(line, column, code, message, hint)

    def _position(self, record: CsvRecord, place: int) -> tuple[int, int]:
        positions = field_positions(self.parsed.lines, record.line)
        return positions[min(place, len(positions) - 1)]
