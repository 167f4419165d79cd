"""The gate: what may be given, to whom, and by whom."""

from dataclasses import replace

import pytest

from authz.errors import GrantRefusedError, OwnRightsError, TargetTooPowerfulError
from authz.grants import Gate, Holder, held_by, require_power
from authz.offline import OfflinePolicy
from authz.own_rights import Own
from authz.ports import SubjectRecord
from authz.request import Ref
from authz.rights import EVERYTHING, Catalogue, Right, Rights, first_excess, permission_right, role_right
from authz.row_changes import RowChanges
from authz.rules import EntityKind, RoleLink, Row, Rule, StoredEntity
from authz.served_model import ColumnMatch, PolicyEffect
from tests.support.policies import DEFAULT_MODEL, NOW, policy, rows
from tests.support.sign_ins import demanding

CATALOGUE = Catalogue.of(
    [
        *(Right(f"kasbah:{name}", action) for name in ("user", "key", "rule") for action in ("read", "write")),
        Right("kasbah:policy", "apply"),
        *(Right(f"kasbah:{kind}/*", "grant") for kind in ("role", "group", "permission")),
    ]
)
BASE = """
base p role:reader kasbah:* read
base p role:author kasbah:rule write
base p role:author kasbah:permission/* grant
base p role:helper kasbah:user write
base p role:helper kasbah:role/* grant
base p role:helper kasbah:group/* grant
base p role:chief kasbah:key write
base p role:chief kasbah:policy apply
base g role:chief role:author
base g role:chief role:helper
base g role:chief role:reader
base p role:limited kasbah:user write
base p role:limited kasbah:user write deny
p role:editor doc:* write
g user:chief role:chief
g user:helper role:helper
g user:author role:author
g user:reader role:reader
"""


def row(text: str) -> Row:
    """Return the one row that a line writes."""
    (found,) = rows(text)
    return found


def writes(
    text: str = BASE, *, by: str, add: str = "", remove: str = "", update: tuple[str, str] | None = None, entities=()
):
    """Judge a write of rows by a person (`user:…`), or by a key with the rights of a role."""
    small = policy(text)
    change(small, by, add=rows(add), remove=rows(remove), update=update, entities=entities)


def change(small: OfflinePolicy, by: str, *, add=(), remove=(), update=None, entities=()) -> None:
    """Judge rows that come, go and change in a small policy."""
    record = small.records.get(Ref(by), SubjectRecord())
    held = held_by(small.snapshot, Ref(by), record, NOW)
    person = by.startswith("user:")
    changes = RowChanges(
        added={each.id: each for each in add} | {str(number): each for number, each in enumerate(entities)},
        removed={each.id: each for each in remove},
        updated={} if update is None else {row(update[0]).id: (row(update[0]), row(update[1]))},
    )
    own = Own(Ref(by), record) if person else None
    Gate(small.snapshot, Holder((held,), is_person=person), own, CATALOGUE, NOW).judge(changes)


# --- rights as values


@pytest.mark.parametrize(
    ("one", "other", "covers", "meets"),
    [
        (("kasbah:user", "read"), ("kasbah:user", "read"), True, True),
        (("kasbah:user", "*"), ("kasbah:user", "read"), True, True),
        (("kasbah:user", "read"), ("kasbah:user", "*"), False, True),
        (("kasbah:*", "read"), ("kasbah:user", "read"), True, True),
        (("kasbah:user", "read"), ("kasbah:*", "read"), False, True),
        (("kasbah:us*", "read"), ("kasbah:user*", "read"), True, True),
        (("kasbah:user*", "read"), ("kasbah:us*", "read"), False, True),
        (("kasbah:us*", "read"), ("kasbah:key*", "read"), False, False),
        (("kasbah:user", "read"), ("kasbah:users", "read"), False, False),
        (("kasbah:user", "read"), ("kasbah:user", "write"), False, False),
        (("kasbah:role/*", "grant"), ("kasbah:role/a", "grant"), True, True),
        (("kasbah:permission/doc:*", "grant"), ("kasbah:permission/*", "grant"), False, True),
    ],
)
def test_one_right_covers_or_meets_another(one, other, covers, meets):
    """A pattern covers what begins as it does; two meet when a question is about both."""
    first, second = Right(*one), Right(*other)
    assert first.covers(second) is covers
    assert first.meets(second) is meets
    assert second.meets(first) is meets


def rights(*allows: tuple[str, str], deny: tuple[tuple[str, str], ...] = ()) -> Rights:
    """Return rights in short form."""
    return Rights(frozenset(Right(*pair) for pair in allows), frozenset(Right(*pair) for pair in deny))


def test_a_pattern_may_be_held_piece_by_piece():
    """Whoever has everything that routes ask about may give `kasbah:*`; the open families need a pattern."""
    pieces = {(right.resource, right.action) for right in CATALOGUE.pairs}
    families = {("kasbah:role/*", "grant"), ("kasbah:group/*", "grant"), ("kasbah:permission/*", "grant")}
    everything = Rights(frozenset((EVERYTHING,)))
    assert first_excess(everything, rights(*pieces, *families), CATALOGUE) is None
    assert first_excess(everything, rights(*pieces), CATALOGUE) is not None
    assert first_excess(everything, rights(*(pieces - {("kasbah:key", "write")}), *families), CATALOGUE) == Right(
        "kasbah:key", "write"
    )
    assert first_excess(rights(("kasbah:unheard", "of")), rights(*pieces), CATALOGUE) == Right("kasbah:unheard", "of")


def test_what_is_denied_is_not_held():
    """Unless the other is denied it as well: then there is nothing to hold."""
    held = rights(("kasbah:user", "*"), deny=(("kasbah:user", "write"),))
    assert first_excess(rights(("kasbah:user", "read")), held, CATALOGUE) is None
    assert first_excess(rights(("kasbah:user", "*")), held, CATALOGUE) == Right("kasbah:user", "write")
    assert first_excess(rights(("kasbah:user", "*"), deny=(("kasbah:user", "write"),)), held, CATALOGUE) is None
    assert first_excess(rights(("kasbah:user", "*"), deny=(("kasbah:us*", "*"),)), rights(), CATALOGUE) is None
    assert first_excess(rights(("kasbah:user", "*"), deny=(("kasbah:user", "read"),)), held, CATALOGUE) is not None


# --- giving


@pytest.mark.parametrize(
    ("by", "add"),
    [
        ("user:helper", "g user:new role:editor"),
        ("user:helper", "g user:new role:helper"),
        ("user:helper", "g user:new group:sales"),
        ("user:helper", "g group:sales role:editor"),
        ("user:author", "p role:editor doc:1 read"),
        ("user:author", "p user:new doc:* write"),
        ("user:author", "p role:editor * write deny"),
        ("user:chief", "g user:new role:chief"),
        ("user:chief", "g role:editor role:reader"),
        ("user:chief", "base p role:x kasbah:user read"),
        ("user:chief", "base p role:x kasbah:* *"),
    ],
)
def test_what_one_holds_one_may_give(by, add):
    """Roles without administrative rights, and those with no more than one's own."""
    writes(by=by, add=add)


@pytest.mark.parametrize(
    ("by", "add"),
    [
        ("user:helper", "g user:new role:chief"),
        ("user:helper", "g user:new role:reader"),
        ("user:helper", "g user:new role:author"),
        ("user:helper", "g role:editor role:chief"),
        ("user:helper", "g group:sales role:author"),
        ("user:helper", "p role:editor doc:1 read"),
        ("user:helper", "p role:editor * read"),
        ("user:author", "g user:new role:editor"),
        ("user:author", "g role:editor role:author"),
        ("user:author", "g user:new group:sales"),
        ("user:reader", "p role:editor doc:1 read"),
        ("user:nobody", "g user:new role:editor"),
        ("user:helper", "base p role:x kasbah:* *"),
        ("user:helper", "base p role:x kasbah:key write"),
        ("user:chief", "base p role:x kasbah:tenant create"),
    ],
)
def test_what_one_does_not_hold_one_may_not_give(by, add):
    """Neither more administrative rights than one's own, nor a role or permission without `grant`."""
    with pytest.raises(GrantRefusedError):
        writes(by=by, add=add)


def test_a_role_carries_what_it_inherits():
    """Also what it inherits only after the same write, and through groups."""
    with pytest.raises(GrantRefusedError):
        writes(by="user:helper", add="g user:new role:a\ng role:a role:b\ng role:b role:chief")
    with pytest.raises(GrantRefusedError):
        writes(f"{BASE}\ng group:heads role:chief", by="user:helper", add="g user:new group:heads")


def test_a_pattern_restricts_which_roles_are_given():
    """A deny on `kasbah:role/…` holds for the role, for what inherits it, and for taking it away."""
    text = f"{BASE}\nbase p role:helper kasbah:role/boss grant deny\ng role:deputy role:boss\ng user:x role:boss"
    for add in ("g user:new role:boss", "g user:new role:deputy"):
        with pytest.raises(GrantRefusedError, match="kasbah:role/boss"):
            writes(text, by="user:helper", add=add)
    with pytest.raises(GrantRefusedError, match="kasbah:role/boss"):
        writes(text, by="user:helper", remove="g user:x role:boss")
    writes(text, by="user:helper", add="g user:new role:editor")


def test_a_pattern_restricts_which_permissions_are_given():
    """By the beginning of the resource; a wildcard that is wider than the right is refused."""
    text = f"{BASE}\nbase p role:docs kasbah:permission/doc:* grant\ng user:docs role:docs"
    writes(text, by="user:docs", add="p role:editor doc:1 read\np role:editor doc:a* read")
    for add in ("p role:editor * read", "p role:editor file:1 read", "p role:editor do:* read"):
        with pytest.raises(GrantRefusedError):
            writes(text, by="user:docs", add=add)


def test_what_holds_under_a_condition_is_not_held_for_sure():
    """But what is given under a condition is given."""
    text = f"{BASE}\nbase p role:maybe kasbah:key write if context.trusted == true\ng user:helper role:maybe"
    with pytest.raises(GrantRefusedError):
        writes(text, by="user:helper", add="g user:new role:maybe")
    writes(text, by="user:chief", add="g user:new role:maybe")


def test_a_deny_that_ends_does_not_make_a_role_harmless():
    """Today it is denied the right; tomorrow it is not."""
    text = f"{BASE}\nbase p role:calm kasbah:key write deny\nbase p role:both kasbah:key write\n"
    with pytest.raises(GrantRefusedError):
        writes(
            f"{text}base g role:both role:calm until 2999-01-01T00:00:00+00:00",
            by="user:helper",
            add="g user:x role:both",
        )
    writes(f"{text}base g role:both role:calm", by="user:helper", add="g user:x role:both")


# --- taking away what denies


def test_a_deny_is_removed_only_by_who_could_allow():
    """An administrative one by who holds the right, an ordinary one by who may grant the permission."""
    text = f"{BASE}\nbase p role:x kasbah:key write deny\np role:x doc:1 read deny"
    with pytest.raises(GrantRefusedError):
        writes(text, by="user:author", remove="base p role:x kasbah:key write deny")
    writes(text, by="user:chief", remove="base p role:x kasbah:key write deny")
    with pytest.raises(GrantRefusedError):
        writes(text, by="user:helper", remove="p role:x doc:1 read deny")
    writes(text, by="user:author", remove="p role:x doc:1 read deny")


def test_a_role_that_denies_is_taken_only_by_who_could_allow():
    """Whoever loses the role may do what it denied."""
    text = f"{BASE}\nbase p role:barred kasbah:key write deny\np role:shut doc:1 read deny\ng user:x role:barred\ng user:x role:shut"
    for member in ("role:barred", "role:shut"):
        with pytest.raises(GrantRefusedError):
            writes(text, by="user:helper", remove=f"g user:x {member}")
        writes(text, by="user:chief", remove=f"g user:x {member}")
    with pytest.raises(GrantRefusedError):
        writes(
            text,
            by="user:helper",
            update=("g user:x role:barred", "g user:x role:barred until 2999-01-01T00:00:00+00:00"),
        )


def test_a_person_takes_no_role_that_is_above_them():
    """A helper does not strip the chief; the key of a service may, so that a leaver can be locked out by a program."""
    with pytest.raises(GrantRefusedError):
        writes(by="user:helper", remove="g user:chief role:chief")
    writes(by="role:helper", remove="g user:chief role:chief")
    writes(by="user:helper", remove="g user:x role:editor")


# --- attributes


def attributes(ref: str, kind: EntityKind = EntityKind.SUBJECT) -> StoredEntity:
    """Return attributes of an entity."""
    return StoredEntity(kind, Ref(ref), {"level": 9})


def test_attributes_that_a_condition_asks_for_are_given_like_rights():
    """Whoever writes them could turn the condition."""
    text = f"{BASE}\nbase p role:reader kasbah:key write if subject.properties.level > 5"
    with pytest.raises(GrantRefusedError):
        writes(text, by="user:author", entities=[attributes("user:x")])
    writes(text, by="user:author", entities=[attributes("doc:1", EntityKind.RESOURCE)])
    writes(text, by="user:chief", entities=[attributes("user:x")])
    ordinary = f"{BASE}\np role:editor doc:* delete if subject.properties.level > 5"
    with pytest.raises(GrantRefusedError):
        writes(ordinary, by="user:helper", entities=[attributes("user:x")])
    writes(ordinary, by="user:author", entities=[attributes("user:x")])


# --- own rights


@pytest.mark.parametrize(
    "add",
    [
        "g user:chief role:editor",
        "g user:chief group:any",
        "g role:chief role:editor",
        "g role:reader role:editor",
        "p user:chief doc:1 read",
        "p role:reader doc:1 read",
        "p user:* doc:1 read",
        "p * doc:1 read",
        "p user:ch* doc:1 read",
        "base p role:reader kasbah:tenant create",
        "base p role:chief kasbah:key *",
    ],
)
def test_own_rights_do_not_grow(add):
    """Not by a role, a group, a permission or a wildcard, however much else one may give."""
    with pytest.raises((OwnRightsError, GrantRefusedError)):
        writes(by="user:chief", add=add)


def test_what_one_has_already_is_no_growth():
    """A narrower rule beside a wider one, and a role beside itself."""
    text = f"{BASE}\ng user:chief role:editor"
    writes(text, by="user:chief", add="p role:editor doc:1 write")
    writes(text, by="user:chief", add="p user:chief doc:a* write")
    with pytest.raises(OwnRightsError):
        writes(text, by="user:chief", add="p role:editor doc:1 read")


def test_own_time_does_not_grow():
    """A role that ends tomorrow is not made one for ever, nor given once more beside itself."""
    ending = "g user:chief role:editor until 2027-01-01T00:00:00+00:00"
    text = f"{BASE}\n{ending}"
    with pytest.raises(OwnRightsError):
        writes(text, by="user:chief", update=(ending, "g user:chief role:editor"))
    with pytest.raises(OwnRightsError):
        writes(text, by="user:chief", add="g role:chief role:editor")
    writes(f"{BASE}\ng user:chief role:editor", by="user:chief", update=("g user:chief role:editor", ending))


def test_own_denies_stay():
    """Nor is the link removed through which they come, nor one's own share of them."""
    text = f"{BASE}\np role:reader doc:1 read deny\np user:* doc:2 read deny\np role:shut doc:3 read deny\ng role:reader role:shut"
    for remove in (
        "p role:reader doc:1 read deny",
        "p user:* doc:2 read deny",
        "g role:reader role:shut",
        "p role:shut doc:3 read deny",
    ):
        with pytest.raises(OwnRightsError):
            writes(text, by="user:chief", remove=remove)
    writes(text, by="user:author", remove="p role:reader doc:1 read deny")


def test_own_attributes_stay_where_conditions_ask_for_them():
    """One's own, and those of resources that one's own rules ask for."""
    text = f"{BASE}\np role:chief doc:* delete if subject.properties.level > 5\np role:chief file:* read if resource.properties.open == true"
    with pytest.raises(OwnRightsError):
        writes(text, by="user:chief", entities=[attributes("user:chief")])
    with pytest.raises(OwnRightsError):
        writes(text, by="user:chief", entities=[attributes("file:1", EntityKind.RESOURCE)])
    writes(text, by="user:chief", entities=[attributes("user:other"), attributes("doc:1", EntityKind.RESOURCE)])


def test_services_have_no_own_rights():
    """A rule that names a key reaches nothing: its scopes alone decide."""
    writes(by="role:chief", add="p * doc:1 read\ng user:x role:editor\ng role:chief role:editor")


# --- models that patterns do not describe


@pytest.mark.parametrize(
    "model",
    [
        replace(DEFAULT_MODEL, residual=lambda *_: True),
        replace(DEFAULT_MODEL, subject=ColumnMatch()),
        replace(DEFAULT_MODEL, resource=ColumnMatch(exact=True)),
        replace(DEFAULT_MODEL, action=ColumnMatch(exact=True)),
    ],
)
def test_where_the_meaning_of_rows_is_not_known_nobody_holds_and_all_is_given(model):
    """A role with any row on administration is then more than anybody may give."""
    small = policy(BASE, model=model)
    for by in ("user:chief", "user:helper"):
        with pytest.raises(GrantRefusedError):
            change(small, by, add=[row("g user:new role:reader")])


@pytest.mark.parametrize("effect", [PolicyEffect.ALLOW_OVERRIDE, PolicyEffect.PRIORITY])
def test_where_a_deny_does_not_decide_it_makes_no_role_harmless(effect):
    """Under another effect the role has what its denied row allows."""
    small = policy(BASE, model=replace(DEFAULT_MODEL, effect=effect))
    with pytest.raises(GrantRefusedError):
        change(small, "user:author", add=[row("g user:new role:limited")])
    deny = rights(("kasbah:role/*", "grant"))
    holder = Holder((deny,), is_person=False)
    with pytest.raises(GrantRefusedError):
        Gate(small.snapshot, holder, None, CATALOGUE, NOW).judge_roles([Ref("role:limited")])


def test_a_link_between_resources_of_the_platform_takes_everything():
    """What a group of them means, no pattern says."""
    model = replace(DEFAULT_MODEL, resource=ColumnMatch(prefix=True, roles="g2"))
    small = policy(BASE, model=model)
    link = RoleLink(Ref("kasbah:key"), Ref("kasbah:group"), "g2", base=True)
    with pytest.raises(GrantRefusedError):
        change(small, "user:author", add=[link])
    change(small, "user:author", add=[RoleLink(Ref("doc:1"), Ref("doc:all"), "g2")])
    with pytest.raises(GrantRefusedError):
        change(small, "user:helper", add=[RoleLink(Ref("doc:1"), Ref("doc:all"), "g2")])


def test_a_link_between_resources_goes_as_it_came():
    """What a group is denied, its member is not any more."""
    model = replace(DEFAULT_MODEL, resource=ColumnMatch(prefix=True, roles="g2"))
    small = policy(BASE, model=model)
    link = RoleLink(Ref("doc:1"), Ref("doc:all"), "g2")
    change(small, "user:author", remove=[link])
    with pytest.raises(GrantRefusedError):
        change(small, "user:helper", remove=[link])
    with pytest.raises(GrantRefusedError):
        change(small, "user:author", remove=[RoleLink(Ref("doc:1"), Ref("kasbah:group"), "g2")])


def test_several_links_are_judged_together():
    """The same role for two, and two roles that deny."""
    text = f"{BASE}\np role:shut doc:1 read deny\np role:closed doc:2 read deny"
    links = "g user:x role:shut\ng user:y role:shut\ng user:x role:closed"
    writes(text, by="user:chief", remove=links)
    with pytest.raises(GrantRefusedError, match="role:shut"):
        writes(text, by="user:helper", remove=links)
    writes(text, by="user:chief", add="g user:x role:helper\ng user:y role:helper")


def test_under_priority_a_row_that_moves_may_give():
    """There the first row that applies decides, so whoever moves one up gives what it says."""
    small = policy(BASE, model=replace(DEFAULT_MODEL, effect=PolicyEffect.PRIORITY))
    allow = row("p user:x kasbah:key write")
    moved = RowChanges(moved={allow.id: (allow, allow)})
    key = Holder((held_by(small.snapshot, Ref("role:author"), SubjectRecord(), NOW),), is_person=False)
    with pytest.raises(GrantRefusedError):
        Gate(small.snapshot, key, None, CATALOGUE, NOW).judge(moved)
    overriding = policy(BASE)
    key = Holder((held_by(overriding.snapshot, Ref("role:author"), SubjectRecord(), NOW),), is_person=False)
    Gate(overriding.snapshot, key, None, CATALOGUE, NOW).judge(moved)


# --- power over others


@pytest.mark.parametrize(
    ("by", "target", "may"),
    [
        ("user:helper", "user:nobody", True),
        ("user:helper", "user:editor", True),
        ("user:helper", "user:chief", False),
        ("user:helper", "user:reader", False),
        ("user:chief", "user:helper", True),
        ("user:chief", "user:chief", True),
        ("user:author", "user:editor", False),
    ],
)
def test_power_is_to_be_able_to_give_all_that_the_other_has(by, target, may):
    """Administrative rights and roles alike."""
    small = policy(f"{BASE}\ng user:editor role:editor")
    held = held_by(small.snapshot, Ref(by), small.records.get(Ref(by), SubjectRecord()), NOW)
    record = small.records.get(Ref(target), SubjectRecord())

    def judge() -> None:
        require_power(small.snapshot, Ref(target), record, Holder((held,), is_person=True), CATALOGUE, now=NOW)

    if may:
        judge()
    else:
        with pytest.raises(TargetTooPowerfulError):
            judge()


def test_the_scopes_of_a_personal_key_bound_what_it_gives():
    """Its owner may be a chief; with a key for users it gives no more than that."""
    small = policy(BASE)
    chief = held_by(small.snapshot, Ref("user:chief"), small.records[Ref("user:chief")], NOW)
    weak = Holder((chief, rights(("kasbah:role/*", "grant"))), is_person=True)
    strong = Holder((chief, rights(("kasbah:*", "*"))), is_person=True)
    Gate(small.snapshot, strong, None, CATALOGUE, NOW).judge_roles([Ref("role:chief")])
    Gate(small.snapshot, weak, None, CATALOGUE, NOW).judge_roles([Ref("role:editor")])
    with pytest.raises(GrantRefusedError):
        Gate(small.snapshot, weak, None, CATALOGUE, NOW).judge_roles([Ref("role:chief")])


def test_names_of_rights_to_give():
    """`grant` on the role, the group, or the permission."""
    assert role_right("role:editor") == Right("kasbah:role/editor", "grant")
    assert role_right("group:sales") == Right("kasbah:group/sales", "grant")
    assert permission_right("doc:*") == Right("kasbah:permission/doc:*", "grant")
    assert isinstance(row("p role:x doc:1 read"), Rule)


# --- roles that demand a second factor

DEMANDING = BASE + "g user:both role:chief\ng user:both role:reader\np role:chief doc:* write\np role:clerk doc:* read"


def held_on(level: str, who: str = "user:both", *roles: str) -> Rights:
    """Return what somebody holds who proved one factor, or two."""
    small = demanding(DEMANDING, *(roles or ("role:chief",)))
    return held_by(small.snapshot, Ref(who), small.records[Ref(who)], NOW, weak=level == "weak")


def test_a_role_that_demands_a_second_factor_gives_nothing_to_give_without():
    """What comes another way is held all the same."""
    assert held_on("strong").surely(Right("kasbah:key", "write"))
    assert not held_on("weak").surely(Right("kasbah:key", "write"))
    assert not held_on("weak").surely(Right("kasbah:rule", "write"))
    assert held_on("weak").surely(Right("kasbah:key", "read"))
    assert not held_on("weak", "user:both", "*").surely(Right("kasbah:key", "read"))


def test_what_it_denies_is_held_by_nobody_on_either_level():
    """A weaker sign-in holds no more than a stronger one."""
    small = demanding(BASE + "g user:both role:helper\ng user:both role:limited", "role:limited")
    held = held_by(small.snapshot, Ref("user:both"), small.records[Ref("user:both")], NOW, weak=True)
    assert not held.surely(Right("kasbah:user", "write"))


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        ("g user:both role:author", True),
        ("g role:reader role:author", True),
        ("p user:both doc:* write", True),
        ("p role:reader doc:1 write", True),
        ("p user:* doc:1 write", True),
        ("g user:both role:reader", False),
        ("g user:both role:chief", False),
        ("p role:chief doc:1 write", False),
        ("p role:author doc:1 write", False),
    ],
)
def test_nobody_moves_a_right_to_where_it_takes_one_factor(line, refused):
    """Somebody who proved two has the right already, and would have it with one from then on."""
    small = demanding(DEMANDING, "role:chief")
    record = small.records[Ref("user:both")]
    everything = Holder((Rights(frozenset((EVERYTHING,))),), is_person=True)
    gate = Gate(small.snapshot, everything, Own(Ref("user:both"), record), CATALOGUE, NOW)
    change = RowChanges(added={each.id: each for each in rows(line)})
    if not refused:
        gate.judge(change)
        return
    with pytest.raises(OwnRightsError, match="second factor"):
        gate.judge(change)
