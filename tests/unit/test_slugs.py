"""Which names a tenant may get."""

import pytest

from tenancy.ids import NEVER_GIVEN, InvalidSlugError, parse_new_slug, parse_slug


@pytest.mark.parametrize(
    "slug",
    (
        "x" * 63
        + " acme a 7up globex-2 a-b-c acme-admin team-api deadbeef tenant tenant-5 tenant5 ap1 billing support t0 admin-2"
    ).split(),
)
def test_a_plain_name_is_taken(slug):
    """A DNS label with a letter in it."""
    assert parse_new_slug(slug) == slug


@pytest.mark.parametrize(
    "slug",
    [
        "",
        "-a",
        "a-",
        "a_b",
        "A",
        "a.b",
        "a b",
        "x" * 64,
        "_base",
        "_platform",
        "ä",
        "а",
        "acme\n",
        "acme\0",
        "%61",
        "a/b",
    ],
)
def test_what_is_no_label_is_no_slug(slug):
    """Neither for a new tenant nor for one that is looked for."""
    for parse in (parse_slug, parse_new_slug):
        with pytest.raises(InvalidSlugError):
            parse(slug)


@pytest.mark.parametrize(
    "slug",
    [
        *sorted(NEVER_GIVEN),
        "adm1n",
        "l0gin",
        "1ogin",
        "p1atform",
        "kasb4h",
        "5ystem",
        "xn--acme-9ta",
        "xn--80ak6aa92e",
        "ab--c",
        "7",
        "127",
        "10-0-0-1",
        "018f3c9e-7c1b-7000-8000-000000000001",
        "018f3c9e7c1b70008000000000000001",
    ],
)
def test_a_name_that_poses_as_something_else_is_not_given(slug):
    """Reserved, a look-alike of what is, an encoded label, a number, an id."""
    with pytest.raises(InvalidSlugError):
        parse_new_slug(slug)


def test_a_tenant_that_has_such_a_name_already_keeps_it():
    """The rules for new names came after some tenants."""
    assert parse_slug("127") == "127"
    assert parse_slug("mail") == "mail"
