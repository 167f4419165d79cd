"""The policies and questions of all benchmarks, made from a seed, with answers worked out without the engine.

A role holds ten rules; eight rules in a row speak of one resource, two for each action; every fifth role inherits the
next; every user has three roles, unless told otherwise. The `mixed` form adds what real policies have: every tenth rule
a prefix pattern, every twentieth a deny.
"""

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from authz.default_model import DEFAULT_MODEL_TEXT
from authz.request import Action, EvaluationRequest, Ref, parse_ref
from authz.rules import Effect, RoleLink, Rule

ACTIONS = ("read", "write", "delete", "share")
RULES_PER_ROLE = 10

MODEL = DEFAULT_MODEL_TEXT
"""The served default."""

CLASSIC_MODEL = """\
[request_definition]
r = sub, dom, obj, act

[policy_definition]
p = sub, dom, obj, act

[role_definition]
g = _, _, _

[policy_effect]
e = some(where (p.eft == allow))

[matchers]
m = g(r.sub, p.sub, r.dom) && r.dom == p.dom && r.obj == p.obj && r.act == p.act
"""
"""Casbin's own RBAC-with-domains example: the cheapest model that can say the plain form of these policies."""


@dataclass(frozen=True, slots=True)
class Question:
    """May `subject` do `action` on `resource`? `allowed` is the right answer."""

    subject: Ref
    action: str
    resource: Ref
    allowed: bool

    @property
    def request(self) -> EvaluationRequest:
        """The question as the engine takes it."""
        return EvaluationRequest(parse_ref(self.subject), Action(self.action), parse_ref(self.resource))


class Workload:
    """One tenant's policy: rules, hierarchy, and users with their roles."""

    def __init__(self, slug: str, rules: int, users: int, *, mixed: bool = False, roles_per_user: int = 3) -> None:
        self.slug = slug
        self.roles_per_user = roles_per_user
        self.seed = zlib.crc32(slug.encode())
        self.roles = max(rules // RULES_PER_ROLE, 4)
        self.users = users
        self.rules = [self._rule(number, mixed=mixed) for number in range(rules)]
        self.hierarchy = [RoleLink(role(n), role(n + 1)) for n in range(0, self.roles - 1, 5)]
        self._rules_of: dict[int, list[Rule]] = {}
        for number, rule in enumerate(self.rules):
            self._rules_of.setdefault(number % self.roles, []).append(rule)

    def _rule(self, number: int, *, mixed: bool) -> Rule:
        resource = f"record:record-{number // (2 * len(ACTIONS))}"
        if mixed and number % 10 == 9:
            resource = f"record:/area-{number // 40}/*"
        effect = Effect.DENY if mixed and number % 20 == 10 else Effect.ALLOW
        return Rule(role(number % self.roles), resource, ACTIONS[number % len(ACTIONS)], effect)

    def roles_of(self, user: int) -> list[int]:
        """Return the direct roles of a user: always the same ones."""
        first = (user * 7919 + self.seed) % self.roles
        step = 1 + user % (self.roles - 2)
        return [first, (first + step) % self.roles, (first + step + 1) % self.roles][: self.roles_per_user]

    def memberships(self) -> Iterator[RoleLink]:
        """Yield every user's roles."""
        for user in range(self.users):
            for number in self.roles_of(user):
                yield RoleLink(subject(user), role(number))

    def _held(self, user: int) -> set[int]:
        """Return direct and inherited roles: number 5n inherits 5n + 1, which inherits nothing."""
        direct = self.roles_of(user)
        return {*direct, *(n + 1 for n in direct if n % 5 == 0 and n + 1 < self.roles)}

    def expected(self, user: int, action: str, resource: str) -> bool:
        """Return the right answer by going through every rule of every role: slow, and plain to see."""
        effects = {
            rule.effect
            for number in self._held(user)
            for rule in self._rules_of.get(number, ())
            if rule.action == action
            and (resource.startswith(rule.resource[:-1]) if rule.resource.endswith("*") else resource == rule.resource)
        }
        return Effect.ALLOW in effects and Effect.DENY not in effects

    def questions(self, count: int, seed: int = 7) -> list[Question]:
        """Return `count` different questions about existing users and resources, half of them true, shuffled."""
        chance = random.Random(f"{seed}:{self.slug}:{len(self.rules)}")
        found: dict[tuple[int, str, str], bool] = {}
        wanted = {True: count // 2, False: count - count // 2}
        tries = 0
        while wanted[True] or wanted[False]:
            tries += 1
            if tries > 200 * count + 10_000:
                raise ValueError(f"{len(self.rules)} rules and {self.users} users have too few different questions")
            user = chance.randrange(self.users)
            if wanted[True] >= wanted[False]:
                rule = chance.choice(self._rules_of.get(chance.choice(sorted(self._held(user))), self.rules[:1]))
            else:
                rule = chance.choice(self.rules)
            resource = rule.resource.removesuffix("*") + f"page-{chance.randrange(100)}" * rule.resource.endswith("*")
            key = (user, rule.action, resource)
            if key in found:
                continue
            allowed = self.expected(*key)
            if wanted[allowed]:
                wanted[allowed] -= 1
                found[key] = allowed
        questions = [Question(subject(u), a, Ref(r), allowed) for (u, a, r), allowed in found.items()]
        chance.shuffle(questions)
        return questions


def role(number: int) -> Ref:
    """Return the name of a role."""
    return Ref(f"role:role-{number}")


def subject(number: int) -> Ref:
    """Return the name of a user."""
    return Ref(f"user:user-{number}")
