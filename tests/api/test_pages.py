"""The pages that mailed links lead to: the whole way of a person, and what scanners, other sites and clever names do."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from urllib.parse import urlencode

import pytest

from authn.change_address import ask_to_change_address
from authn.links import LinkPurpose
from authn.password_hashing import Verified
from authn.users import normalize_email
from authn.verify_address import ask_to_verify
from service.http import pages
from service.keys import PASSWORDS
from service.page_look import Look, look_of, luminance
from tenancy.tenant_settings import BrandingSettings
from tests.support.administration import META, Answer
from tests.support.documented import check_documented
from tests.support.people import PostOffice

pytestmark = pytest.mark.integration

GOOD = "quiet rivers carry small stones"
OURS = {"Sec-Fetch-Site": "same-origin"}
PAGES = ("invitation", "password-reset", "verify", "confirm-address", "undo-address")


class Page(HTMLParser):
    """What of a page a browser would act on."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of every element of a kind."""
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def fields(self) -> dict[str, str]:
        """What the form would send."""
        return {field["name"] or "": field.get("value") or "" for field in self.all("input")}


async def open_page(post: PostOffice, path: str, **headers: str) -> tuple[Answer, Page]:
    """Open a page as a browser does that follows a link of a mail."""
    async with post.client.get(path, headers={"Accept": "text/html"} | headers) as response:
        answer = Answer(response.status, response.headers, await response.read())
    check_documented("GET", path, answer.status, answer.headers["Content-Type"], answer.body)
    return answer, Page(answer.body.decode())


async def send(post: PostOffice, path: str, form, **headers: str) -> Answer:
    """Send a form as a browser does from one of our pages; `headers` take the place of what it says."""
    sent = {"Content-Type": "application/x-www-form-urlencoded"} | (headers or OURS)
    data = form if isinstance(form, bytes) else urlencode(form).encode()
    async with post.client.post(path, data=data, headers=sent, allow_redirects=False) as response:
        answer = Answer(response.status, response.headers, await response.read())
    check_documented("POST", path, answer.status, answer.headers.get("Content-Type", ""), answer.body)
    return answer


async def links(post: PostOffice) -> dict[str, str]:
    """Return the path of a good link for every page."""
    await post.post("/v1/invitations", {"email": "carol@example.org"}, key=post.keys["acme"])
    alice, bob = await post.person("alice"), await post.person("bob", verified=False)
    body = {"identifier": "alice"}
    await post.post("/v1/account/password-reset-request", body, key="", headers={"X-Tenant-ID": "acme"})
    reset = (await post.mails("alice@example.org"))[-1].link
    await ask_to_verify(post.flows, post.tenants["acme"], bob.id, meta=META)
    await ask_to_change_address(
        post.flows, post.tenants["acme"], alice.id, normalize_email("new@example.org"), meta=META
    )
    found = {"invitation": (await post.mails("carol@example.org"))[-1].link, "password-reset": reset}
    for page, address in (("verify", "bob"), ("confirm-address", "new"), ("undo-address", "alice")):
        found[page] = (await post.mails(f"{address}@example.org"))[-1].link
    return {page: link.removeprefix("http://127.0.0.1:8080") for page, link in found.items()}


async def test_an_invited_person_makes_their_account_on_pages_alone(post):
    """Mail, page, a mistake, another try, done: an account with the password that was typed."""
    await post.post("/v1/invitations", {"email": "carol@example.org", "display_name": "Carol"}, key=post.keys["acme"])
    path = (await post.mails("carol@example.org"))[-1].link.removeprefix("http://127.0.0.1:8080")
    answer, page = await open_page(post, path)
    assert answer.status == 200
    assert "carol@example.org" in page.words
    form = page.fields | {"username": "carol", "password": "short", "again": "short"}
    assert form["display_name"] == "Carol"
    refused = await send(post, "/account/invitation", form)
    assert refused.status == 422
    again = Page(refused.body.decode())
    assert "15" in again.words
    assert again.fields["username"] == "carol"
    assert again.fields["password"] == again.fields["again"] == ""
    assert "short" not in refused.body.decode()
    unlike = await send(post, "/account/invitation", form | {"password": GOOD, "again": GOOD + "x"})
    assert unlike.status == 422
    done = await send(post, "/account/invitation", again.fields | {"password": GOOD, "again": GOOD})
    assert (done.status, done.headers["Location"], done.body) == (303, "/account/done/invitation", b"")
    told, page = await open_page(post, done.headers["Location"])
    assert told.status == 200
    assert "ready" in page.words
    ((stored,),) = post.query("SELECT password_hash FROM users WHERE username = 'carol'")
    assert isinstance(await post.app[PASSWORDS].verify(GOOD, stored), Verified)
    assert (await open_page(post, path))[0].status == 410


async def test_a_name_that_cannot_be_shown_is_told_beside_its_field(post):
    """The form comes back with what was typed, and the link is good for another try."""
    await post.post("/v1/invitations", {"email": "carol@example.org"}, key=post.keys["acme"])
    path = (await post.mails("carol@example.org"))[-1].link.removeprefix("http://127.0.0.1:8080")
    _, page = await open_page(post, path)
    turned = "Carol\N{RIGHT-TO-LEFT OVERRIDE}"
    form = page.fields | {"username": "carol", "display_name": turned, "password": GOOD, "again": GOOD}
    refused = await send(post, "/account/invitation", form)
    assert refused.status == 422
    again = Page(refused.body.decode())
    assert "printable characters" in again.words
    assert again.fields["username"] == "carol"
    done = await send(post, "/account/invitation", form | {"display_name": "Carol"})
    assert done.status == 303


async def test_a_forgotten_password_is_set_on_pages_alone(post):
    """Ask, mail, page, done; the page after asking is the same for whoever does not exist."""
    user = await post.person("alice")
    answer, page = await open_page(post, "/account/password-reset-request?tenant=acme")
    assert answer.status == 200
    assert page.fields["tenant"] == "acme"
    asked = await send(post, "/account/password-reset-request", page.fields | {"identifier": "alice"})
    nobody = await send(post, "/account/password-reset-request", {"tenant": "nobody", "identifier": "nobody"})
    assert (asked.status, asked.body, asked.headers["Location"]) == (
        nobody.status,
        nobody.body,
        nobody.headers["Location"],
    )
    path = (await post.mails("alice@example.org"))[-1].link.removeprefix("http://127.0.0.1:8080")
    _, page = await open_page(post, path)
    assert "alice" in page.words
    assert {field.get("autocomplete") for field in page.all("input")} >= {"new-password", "username"}
    done = await send(post, "/account/password-reset", page.fields | {"password": GOOD, "again": GOOD})
    assert (done.status, done.headers["Location"]) == (303, "/account/done/password-reset")
    assert "Set-Cookie" not in done.headers
    (stored,) = post.account(user.id, "password_hash")
    assert isinstance(await post.app[PASSWORDS].verify(GOOD, stored), Verified)
    assert (await send(post, "/account/password-reset", page.fields | {"password": GOOD, "again": GOOD})).status == 410


async def test_opening_links_spends_nothing(post):
    """Mail scanners open every link, often; then the buttons still work. Other methods do nothing either."""
    for page, path in (await links(post)).items():
        for _ in range(3):
            assert (await open_page(post, path))[0].status == 200, page
        for method in ("HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"):
            async with post.client.request(method, path) as response:
                assert response.status == 405, (page, method)
    assert post.query("SELECT count(*) FROM links WHERE spent_at IS NOT NULL") == [(0,)]
    assert post.query("SELECT count(*) FROM users WHERE username = 'carol'") == [(0,)]


@pytest.mark.parametrize("page", ["verify", "confirm-address", "undo-address"])
async def test_a_button_does_what_its_link_says_once(post, page):
    """303 to a page that says so; a second time the link is nothing."""
    path = (await links(post))[page]
    _, shown = await open_page(post, path)
    done = await send(post, f"/account/{page}", shown.fields)
    assert (done.status, done.headers["Location"]) == (303, f"/account/done/{page}")
    assert (await open_page(post, done.headers["Location"]))[0].status == 200
    assert (await send(post, f"/account/{page}", shown.fields)).status == 410


CROSS_SITE = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1:8080"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:8080.evil.example"},
    {"Origin": "http://127.0.0.1"},
    {"Referer": "http://127.0.0.1:8080/account/verify"},
    {"X-Nothing": "x"},
]


async def test_only_our_own_pages_send_forms(post):
    """Another site's, a sandboxed one's, or one that does not say: 403, and nothing is spent."""
    found = await links(post)
    forms = {page: (await open_page(post, path))[1].fields for page, path in found.items()}
    more = {"username": "carol", "password": GOOD, "again": GOOD}
    for page, form in forms.items():
        whole = form | ({name: more[name] for name in more if name in form})
        for headers in CROSS_SITE:
            assert (await send(post, f"/account/{page}", whole, **headers)).status == 403, (page, headers)
    assert post.query("SELECT count(*) FROM links WHERE spent_at IS NOT NULL") == [(0,)]
    origin = {"Origin": "http://127.0.0.1:8080"}
    assert (await send(post, "/account/verify", forms["verify"], **origin)).status == 303


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"token": "x"}'),
        ("text/plain", b"token=x"),
        ("multipart/form-data; boundary=x", b"--x\r\n"),
        ("application/x-www-form-urlencoded", b"token=x&token=y"),
        ("application/x-www-form-urlencoded", b"token=x&admin=1"),
        ("application/x-www-form-urlencoded", b"token=%ff"),
        ("application/x-www-form-urlencoded", b"token"),
        ("application/x-www-form-urlencoded", b"\xff=1"),
        ("application/x-www-form-urlencoded", b"a=1&" * 50),
    ],
)
async def test_pages_take_forms_and_nothing_else(post, content_type, body):
    """And `/v1` takes JSON and nothing else: no body is understood by both."""
    answer = await send(post, "/account/verify", body, **OURS, **{"Content-Type": content_type})
    assert answer.status == 400
    assert answer.headers["Content-Type"].startswith("text/html")


async def test_every_page_is_closed_to_the_rest_of_the_web(post):
    """No script, frame, cache or referrer; nothing loaded but a logo of the tenant; nothing told to who watches."""
    paths = [
        *(await links(post)).values(),
        "/account/verify?token=x",
        "/account/done/verify",
        "/account/password-reset-request",
    ]
    for path in paths:
        answer, page = await open_page(post, path, Origin="https://evil.example")
        headers = answer.headers
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
        assert policy["form-action"] == "'self'"
        (style,) = re.findall(r"<style>(.*?)</style>", answer.body.decode(), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert policy["style-src"] == f"'sha256-{digest}'"
        assert "script-src" not in policy
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert "Access-Control-Allow-Origin" not in headers
        assert "Set-Cookie" not in headers
        assert "Strict-Transport-Security" not in headers, "this one is served without TLS"
        assert not page.all("script")
        assert not page.all("iframe")
        assert not [tag for tag, attributes in page.tags if any(name.startswith("on") for name in attributes)]
        assert page.all("html") == [{"lang": "en"}]
        assert len(page.all("h1")) == 1
        named = {field["for"] for field in page.all("label")}
        assert {
            field["id"] for field in page.all("input") if field["type"] != "hidden" and "hidden" not in field
        } <= named
        assert {form["action"].split("?")[0] for form in page.all("form")} <= {path.split("?")[0]}


async def test_names_and_branding_are_text_whatever_they_hold(post):
    """Markup, quotes and scripts in names are shown as such; colours and logos cannot break out of where they stand."""
    evil = "\"'><script>alert(1)</script><img src=x onerror=alert(2)> {{7*7}}"
    branding = {"name": evil[:60], "accent_colour": "#d9480f", "support_url": "https://help.example/"}
    headers = {"Content-Type": "application/merge-patch+json"}
    answer = await post.ask("PATCH", "/v1/tenants/acme/settings", {"branding": branding}, headers=headers)
    assert answer.status == 200, answer.body
    body = {"email": "carol@example.org", "display_name": evil}
    assert (await post.post("/v1/invitations", body, key=post.keys["acme"])).status == 201
    path = (await post.mails("carol@example.org"))[-1].link.removeprefix("http://127.0.0.1:8080")
    _, page = await open_page(post, path)
    assert page.fields["display_name"] == evil
    assert not page.all("script")
    assert not page.all("img")
    assert "{{7*7}}" in repr(page.tags)
    form = page.fields | {"username": evil, "password": "x", "again": "x"}
    refused = Page((await send(post, "/account/invitation", form)).body.decode())
    assert refused.fields["username"] == evil
    assert not refused.all("script")
    _, request = await open_page(post, f"/account/password-reset-request?{urlencode({'tenant': evil})}")
    assert request.fields["tenant"] == evil


def test_only_https_logos_and_real_colours_reach_a_page():
    """However a value came into the settings: another scheme is left out, and the page loads from one place at most."""
    for url in (
        "javascript:alert(1)",
        "data:text/html,x",
        "http://logo.example/x.png",
        "//evil.example",
        "https://",
        None,
    ):
        look = look_of("Acme", BrandingSettings(logo_url=url, support_url=url))
        assert (look.logo_url, look.support_url) == (None, None), url
    for colour in ("red", "#fff", "#12345g", "#123456;}</style><script>", "#ABCDEF\n"):
        assert look_of("Acme", BrandingSettings(accent_colour=colour)).accent == Look().accent
    look = look_of("Acme", BrandingSettings(logo_url="https://logo.example/a.png?x=1"))
    assert look.logo_origin == "https://logo.example"


@pytest.mark.parametrize("colour", ["#000000", "#ffffff", "#d9480f", "#1f4f8f", "#ffff00", "#777777", "#00ff00"])
def test_buttons_can_be_read_on_every_colour(colour):
    """At least 4.5 to 1 (WCAG 2.2, 1.4.3)."""
    lighter, darker = sorted((luminance(colour), luminance(Look(accent=colour).on_accent)), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


@pytest.mark.parametrize("page", PAGES)
async def test_a_link_that_does_nothing_looks_alike_on_every_page(post, page):
    """Unknown, repeated, missing, of another page or tenant: one page, which names nobody."""
    found = await links(post)
    other = found["verify" if page != "verify" else "invitation"].partition("=")[2]
    own = found[page].partition("=")[2]
    bodies = set()
    for query in ("token=x", f"token={other}", f"token={own}&token={own}", "", "token=", f"token={own}&tenant=beta"):
        answer, shown = await open_page(post, f"/account/{page}?{query}")
        assert answer.status == 410, query
        bodies.add(answer.body)
        assert "alice" not in shown.words
    assert len(bodies) == 1


@pytest.mark.parametrize("name", ["invitation", "password-reset"])
async def test_a_page_that_hashes_is_refused_while_the_pool_is_full(post, name, monkeypatch):
    """Before its form is read, in words, with the time to wait; the form works afterwards."""
    path = (await links(post))[name]
    _, page = await open_page(post, path)
    form = page.fields | {"username": "carol", "password": GOOD, "again": GOOD}
    pool = post.app[PASSWORDS]._pool
    held = [pool.take(number) for number in range(pool._room)]
    read = []
    monkeypatch.setattr(pages, "read_form", lambda *_: read.append("read"))
    refused = await send(post, f"/account/{name}", form)
    assert (refused.status, refused.headers["Content-Type"]) == (503, "text/html; charset=utf-8")
    assert int(refused.headers["Retry-After"]) > 0
    assert "try again" in Page(refused.body.decode()).words
    assert read == []
    monkeypatch.undo()
    for place in held:
        place.leave()
    assert (await send(post, f"/account/{name}", form)).status == 303


async def test_a_page_says_so_when_the_service_cannot_answer(post):
    """Too many requests of one network, in words; with the time to wait."""
    for _ in range(60):
        await open_page(post, "/account/verify?token=x")
    answer, page = await open_page(post, "/account/verify?token=x")
    assert answer.status == 429
    assert int(answer.headers["Retry-After"]) > 0
    assert "wait" in page.words
    tickets = {LinkPurpose.ENROLMENT, LinkPurpose.FACTOR_RESET}  # are typed, not opened
    assert set(LinkPurpose) - tickets == {LinkPurpose(page) for page in PAGES}
