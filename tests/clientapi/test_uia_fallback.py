# SPDX-License-Identifier: Apache-2.0
"""The web pages of user-interactive authentication: they complete a stage, and nothing put into them is run."""

from dataclasses import replace

from immutables import Map

from homeserver.clientapi.uia_fallback import policy_list
from homeserver.config.sections import Policy, PolicyDocument, Registration
from storage.database import Database
from storage.registration_tokens import NewRegistrationToken, RegistrationTokenStore
from tests.accounts.serving import PASSWORD
from tests.clientapi.account_site import CONFIG, AccountSite, account_site

BODY = {"username": "alice", "password": PASSWORD}
EVIL = '"><script>alert(1)</script>'


async def test_a_registration_by_web_pages_alone(database: Database) -> None:
    """Token, then terms, each in a browser; the client only has its session."""
    policy = Policy(version="1", languages=Map({"en": PolicyDocument(name=EVIL, url="https://x.org/?a&b")}))
    registration = Registration(enabled=True, requires_token=True, terms=Map({"privacy": policy}))
    async with account_site(database, replace(CONFIG, registration=registration)) as site:
        store = RegistrationTokenStore(database)
        await store.add(NewRegistrationToken(token="welcome"), site.clock.now)
        session = (await site.call("POST", "/register", BODY)).json["session"]
        query = {"session": session}
        token_page = "/auth/m.login.registration_token/fallback/web"
        shown = await site.call("GET", token_page, query=query)
        assert shown.status == 200 and b'name="token"' in shown.raw
        wrong = await site.call("POST", token_page, b"token=%22%3E%3Cscript%3E", query=query)
        assert wrong.status == 403 and b"not valid" in wrong.raw and b"<script>" not in wrong.raw
        done = await site.call("POST", token_page, b"token=welcome", query=query)
        assert done.status == 200 and b"window.onAuthDone" in done.raw
        terms_page = "/auth/m.login.terms/fallback/web"
        shown = await site.call("GET", terms_page, query=query)
        assert b"https://x.org/?a&amp;b" in shown.raw and b"<script>" not in shown.raw
        assert (await site.call("POST", terms_page, b"", query=query)).status == 200
        made = await site.call("POST", "/register", {**BODY, "auth": {"session": session}})
        assert made.json["user_id"] == "@alice:example.org"


async def test_pages_for_nobody(site: AccountSite) -> None:
    """An unknown session or stage; what was sent is not echoed."""
    for stage, query, status in (
        ("m.login.dummy", {"session": EVIL}, 400),
        ("m.login.dummy", {}, 400),
        ("m.login.password", {"session": "x"}, 404),
        (EVIL.replace("/", ""), {"session": "x"}, 404),
    ):
        path = f"/auth/{stage}/fallback/web"
        answer = await site.call("GET", path, query=query)
        assert answer.status == status
        assert b"<script>" not in answer.raw
    answer = await site.call("POST", "/auth/m.login.dummy/fallback/web", b"\xff", query={"session": EVIL})
    assert answer.status == 403 and b"<script>" not in answer.raw


async def test_pages_run_no_scripts_but_their_own(site: AccountSite) -> None:
    """The browser is told so."""
    session = (await site.call("POST", "/register", BODY)).json["session"]
    page = await site.call("GET", "/auth/m.login.dummy/fallback/web", query={"session": session})
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert page.headers["content-type"] == "text/html; charset=utf-8"


def test_policies_are_escaped_everywhere() -> None:
    """Name, address, version and language."""
    page = policy_list({"p": {"version": EVIL, EVIL: {"name": EVIL, "url": EVIL}}})
    assert "<script>" not in page and '">' + "<" not in page
