"""The role hierarchy: cycles, chains that are too deep, roles that nobody has or that lead nowhere."""

from collections.abc import Iterable, Iterator, Mapping

from authz.findings import Severity
from authz.lint.nearest import Nearest
from authz.lint.part import Part, place_of, spelled
from authz.rules import RoleLink
from authz.served_names import ROLE_TYPES

_MAX_ANCESTORS = 64


class PermanentAncestors:
    """What a role or group always inherits: links that expire do not count. At most 64 names, nearest first."""

    __slots__ = ("_parents",)

    def __init__(self, links: Iterable[RoleLink]) -> None:
        self._parents: dict[str, list[str]] = {}
        for link in links:
            if link.kind == "g" and not link.is_membership and link.expires_at is None:
                self._parents.setdefault(link.member, []).append(link.role)

    def of(self, name: str) -> list[str]:
        """Return the ancestors of `name`, itself left out."""
        reached: dict[str, None] = {name: None}
        found = [name]
        for each in found:
            for role in self._parents.get(each, ()):
                if role not in reached and len(found) <= _MAX_ANCESTORS:
                    reached[role] = None
                    found.append(role)
        return found[1:]


def check_roles(part: Part, max_depth: int) -> None:
    """Report cycles and depth for each kind of link, and roles that no rule or no member knows."""
    by_kind: dict[str, dict[str, list[RoleLink]]] = {}
    for link in part.links:
        if not link.is_membership:
            by_kind.setdefault(link.kind, {}).setdefault(link.member, []).append(link)
    for kind in sorted({link.kind for link in part.links}):
        graph = by_kind.get(kind, {})
        in_cycle = _report_cycles(part, graph)
        _report_depth(part, graph, in_cycle, max_depth)
    _report_unknown(part, by_kind.get("g", {}))


def _report_cycles(part: Part, graph: Mapping[str, list[RoleLink]]) -> set[str]:
    """Report each group of names that inherit each other once; return these names."""
    in_cycle: set[str] = set()
    for component in _components(graph):
        inside = set(component)
        links = [link for name in component for link in graph.get(name, ()) if link.role in inside]
        if len(component) == 1 and not links:
            continue
        in_cycle |= inside
        own = [link for link in links if part.is_own(link)]
        if own:
            last = max(own, key=lambda link: link.source.line if link.source is not None else 0)
            path = _path_inside(graph, inside, last.role, last.member)
            message = f"roles inherit each other: {spelled([last.member, *path])}"
            part.at_link(last, "member", "role-cycle", message, "remove one of these links", severity=Severity.ERROR)
    return in_cycle


def _path_inside(graph: Mapping[str, list[RoleLink]], inside: set[str], start: str, goal: str) -> list[str]:
    """Return a shortest path from `start` to `goal` inside one component."""
    came: dict[str, str | None] = {start: None}
    waiting = [start]
    for name in waiting:
        if name == goal:
            break
        for link in graph.get(name, ()):
            if link.role in inside and link.role not in came:
                came[link.role] = name
                waiting.append(link.role)
    path: list[str] = []
    step: str | None = goal
    while step is not None:
        path.append(step)
        step = came.get(step)
    return path[::-1]


def _components(graph: Mapping[str, list[RoleLink]]) -> Iterator[list[str]]:
    """Yield strongly connected components (Tarjan), without recursion: chains may be long."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    on_stack: set[str] = set()
    stack: list[str] = []
    for root in graph:
        if root in index:
            continue
        work: list[tuple[str, Iterator[RoleLink]]] = [(root, iter(graph[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            name, rest = work[-1]
            link = next(rest, None)
            if link is not None:
                role = link.role
                if role not in index:
                    index[role] = low[role] = len(index)
                    stack.append(role)
                    on_stack.add(role)
                    work.append((role, iter(graph.get(role, ()))))
                elif role in on_stack:
                    low[name] = min(low[name], index[role])
                continue
            work.pop()
            if work:
                low[work[-1][0]] = min(low[work[-1][0]], low[name])
            if low[name] == index[name]:
                component: list[str] = []
                while not component or component[-1] != name:
                    component.append(stack.pop())
                    on_stack.discard(component[-1])
                yield component


def _report_depth(part: Part, graph: Mapping[str, list[RoleLink]], in_cycle: set[str], max_depth: int) -> None:
    """Report where a chain first grows longer than `max_depth` links; names in a cycle are reported already."""
    height: dict[str, int] = {}
    for component in _components(graph):  # parents come before their children
        for name in component:
            above = [height.get(link.role, 0) + 1 for link in graph.get(name, ()) if link.role not in in_cycle]
            height[name] = max(above, default=0) if name not in in_cycle else 0
    hint = "flatten the hierarchy"
    for name, links in graph.items():
        for link in links:
            depth = height.get(link.role, 0) + 1
            if depth == max_depth + 1 and name not in in_cycle and part.is_own(link):
                message = f"a chain of {depth} links starts here; the limit is {max_depth}"
                part.at_link(link, "member", "deep-chain", message, hint, severity=Severity.ERROR)


def _report_unknown(part: Part, graph: Mapping[str, list[RoleLink]]) -> None:
    """Report roles of rules that nobody has, and given roles that no rule knows: often one is a slip of the other."""
    if part.own.is_base:
        return  # tenants give the roles of the base to their members
    given: set[str] = {link.role for link in part.links if link.kind == "g"}
    used = {rule.subject for rule in part.rules}
    _report_not_given(part, given, Nearest(given - used))
    leads = _leads_to_rules(graph, used)
    if "*" in used:
        return
    nearest = Nearest({role for role in used if _is_role(role)})
    reported: set[str] = set()
    for link in part.own.links:
        name = link.role
        if link.kind == "g" and name not in leads and name not in reported:
            reported.add(name)
            near = nearest.find(name)
            hint = f"did you mean `{near}`?" if near else "write a rule for it, or remove the row"
            part.at_link(link, "role", "role-without-rules", f"no rule knows `{name}` or anything it inherits", hint)


def _report_not_given(part: Part, given: set[str], nearest: Nearest) -> None:
    by_files = any(link.is_membership for link in part.own.links)
    given_too = Nearest(given)
    reported: set[str] = set()
    for rule in part.own.rules:
        name = rule.subject
        if name in given or name in reported or not _is_role(name):
            continue
        reported.add(name)
        near = nearest.find(name)
        if near is not None or by_files:  # without any membership in files, members come through the API
            near = near or given_too.find(name)
            hint = f"did you mean `{near}`?" if near else "give it with a `g` row, or through the API"
            part.at_rule(rule, "sub", "unknown-role", f"nothing in these files gives `{name}` to anyone", hint)


def _leads_to_rules(graph: Mapping[str, list[RoleLink]], used: set[str]) -> set[str]:
    """Return the names that are, or inherit, a rule's subject."""
    children: dict[str, list[str]] = {}
    for links in graph.values():
        for link in links:
            children.setdefault(link.role, []).append(link.member)
    leads = set(used)
    waiting = list(used)
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in leads:
                leads.add(child)
                waiting.append(child)
    return leads


def _is_role(name: str) -> bool:
    return not name.endswith("*") and name.partition(":")[0] in ROLE_TYPES


def check_links(part: Part, now: float) -> None:
    """Report grants that stand twice, contradict each other, or are over. `now` is in epoch seconds."""
    first: dict[tuple[str, ...], RoleLink] = {}
    for link in part.links:
        earlier = first.setdefault(link.key, link)
        if earlier is not link and part.is_own(link):
            if earlier.expires_at == link.expires_at or earlier.base != link.base:
                message = f"the same as {place_of(earlier)}"
                part.at_link(link, "member", "duplicate-link", message, "remove one of them")
            else:
                message = f"{place_of(earlier)} gives the same until another time"
                hint = "keep the one that is meant"
                part.at_link(link, "expires_at", "conflicting-expiry", message, hint, severity=Severity.ERROR)
        if link.expires_at is not None and link.expires_at.timestamp() <= now and part.is_own(link):
            message = f"expired at {link.expires_at.isoformat().replace('+00:00', 'Z')}"
            part.at_link(link, "expires_at", "expired-grant", message, "remove the row, or renew it")
