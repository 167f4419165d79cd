"""Cycles and depth of role hierarchies."""

import random

from authz.request import Ref
from authz.role_chains import find_cycle, longest_chain
from authz.rules import RoleLink


def links(*pairs):
    """Return links of roles named by letters."""
    return [RoleLink(Ref(f"role:{member}"), Ref(f"role:{role}")) for member, role in pairs]


def test_a_hierarchy_without_circle_has_a_depth():
    """The longest way counts, however the links are ordered and shared."""
    diamond = links("ab", "ac", "bd", "cd", "de", "ae")
    for seed in range(20):
        shuffled = random.Random(seed).sample(diamond, len(diamond))
        assert find_cycle(shuffled) == ()
        assert longest_chain(shuffled) == 3
    assert longest_chain([]) == 0


def test_a_circle_is_named_from_its_own_first_role():
    """Only the roles of the circle are named, not those that lead to it."""
    cycle = find_cycle(links("xa", "ab", "bc", "ca", "cz"))
    assert cycle[0] == cycle[-1]
    assert set(cycle) == {"role:a", "role:b", "role:c"}
    assert find_cycle(links("aa")) == ("role:a", "role:a")


def test_a_very_long_chain_does_not_exhaust_the_stack():
    """Hostile depth is counted, not crashed on."""
    chain = [RoleLink(Ref(f"role:{n}"), Ref(f"role:{n + 1}")) for n in range(50_000)]
    assert longest_chain(chain) == 50_000
    assert find_cycle([*chain, RoleLink(Ref("role:50000"), Ref("role:0"))]) != ()
