# SPDX-License-Identifier: Apache-2.0
"""Making accounts: names, flows, tokens, guests, the first account, the shared secret."""

import hashlib
import hmac
from collections.abc import Iterator
from typing import Any

import pytest
from immutables import Map
from twisted.internet.defer import Deferred, DeferredList

from homeserver.accounts.registration import RegistrationRequest
from homeserver.accounts.registration_by_secret import SharedSecretRequest
from homeserver.accounts.sessions import DeviceRequest
from homeserver.config.sections import Policy, PolicyDocument, Registration
from homeserver.errors import (
    Forbidden,
    InvalidUsername,
    MatrixError,
    MissingParam,
    UiaRequired,
    Unknown,
    UserInUse,
    WeakPassword,
)
from storage.database import Database
from storage.users import NewUser, UserStore
from tests.accounts.serving import PASSWORD, SECRET, Setting, accounts_on, session_of

DUMMY = {"type": "m.login.dummy"}
TERMS = Map(
    {"privacy": Policy(version="1.2", languages=Map({"en": PolicyDocument(name="P", url="https://x.org/")}))}
)


def wish(username: str | None = None, password: str | None = PASSWORD, **more: Any) -> RegistrationRequest:
    """A registration with a device of its own."""
    return RegistrationRequest(username=username, password=password, device=DeviceRequest(), **more)


def by_token(token: str, session: str | None = None) -> dict[str, Any]:
    """The `auth` of the token stage."""
    auth = {"type": "m.login.registration_token", "token": token}
    return auth if session is None else {**auth, "session": session}


@pytest.fixture
def with_token(database: Database) -> Iterator[Setting]:
    """Registration that asks for a token."""
    with accounts_on(database, registration=Registration(enabled=True)) as setting:
        yield setting


@pytest.fixture
def closed(database: Database) -> Iterator[Setting]:
    """Registration is off, as it is by default."""
    with accounts_on(database, registration=Registration()) as setting:
        yield setting


async def test_names_are_folded_and_taken_once(accounts: Setting) -> None:
    """The user arrives furnished; the second of that name does not."""
    made = await accounts.register("Alice")
    assert made.user_id == "@alice:example.org"
    assert accounts.comings.arrived == [("@alice:example.org", None)]
    with pytest.raises(UserInUse):
        await accounts.register("ALICE")


@pytest.mark.parametrize("username", ["al ice", "älice", "a:b", "@alice", "_bridge", "", "x" * 250, "a\x00"])
async def test_names_that_cannot_be_had(accounts: Setting, username: str) -> None:
    """Refused before any authentication is asked for, and by `available` too."""
    with pytest.raises(InvalidUsername):
        await accounts.accounts.registration.register(wish(username), None)
    with pytest.raises(InvalidUsername):
        await accounts.accounts.registration.check_username(username)


async def test_registering_never_succeeds_without_authentication(accounts: Setting) -> None:
    """Even where a dummy is enough, it must be sent."""
    with pytest.raises(UiaRequired) as caught:
        await accounts.accounts.registration.register(wish("alice"), None)
    assert caught.value.as_dict()["flows"] == [{"stages": ("m.login.dummy",)}]
    auth = {**DUMMY, "session": session_of(caught)}
    made = await accounts.accounts.registration.register(wish("alice"), auth)
    assert made.access_token is not None


@pytest.mark.parametrize("password", ["short", "aaaaaaaaaa", "alice1234", "4321ecila", "x" * 513])
async def test_weak_passwords(accounts: Setting, password: str) -> None:
    """A floor under passwords people choose."""
    with pytest.raises(WeakPassword):
        await accounts.accounts.registration.register(wish("alice1234", password), DUMMY)


async def test_no_name_no_password_no_log_in(accounts: Setting) -> None:
    """A name is generated; a password is not; log-in may be declined."""
    register = accounts.accounts.registration.register
    assert (await register(wish(), DUMMY)).user_id.endswith(":example.org")
    with pytest.raises(MissingParam):
        await register(wish("alice", None), DUMMY)
    made = await register(wish("alice", inhibit_login=True), DUMMY)
    assert (made.access_token, made.device_id) == (None, None)
    assert await accounts.accounts.own_devices.list(made.user_id) == []


async def test_simultaneous_registrations_of_one_name(accounts: Setting) -> None:
    """One wins; the others are told the name is taken, and leave no trace."""
    attempts = [Deferred.fromCoroutine(accounts.register("alice")) for _ in range(6)]
    results = await DeferredList(attempts, consumeErrors=True)
    assert sum(success for success, _ in results) == 1
    failures: list[Any] = [result for success, result in results if not success]
    assert all(failure.check(UserInUse) for failure in failures)
    assert len(await accounts.accounts.own_devices.list("@alice:example.org")) == 1


async def test_closed_registration_refuses_everything(closed: Setting) -> None:
    """Not even which names are taken is told."""
    registration, gate = closed.accounts.registration, closed.accounts.gate
    for attempt in (
        registration.register(wish("alice"), DUMMY),
        registration.register_guest(None),
        registration.check_username("alice"),
        gate.is_token_valid("x"),
    ):
        with pytest.raises(Forbidden):
            await attempt


async def test_the_first_account_needs_the_one_time_token(closed: Setting) -> None:
    """It works once while registration is closed, makes an administrator, and is not made again."""
    gate, registration = closed.accounts.gate, closed.accounts.registration
    token = await gate.ensure_first_account_token()
    assert token is not None
    assert await gate.ensure_first_account_token() == token
    assert await gate.is_token_valid(token)
    with pytest.raises(UiaRequired):
        await registration.register(wish("alice"), by_token("guess"))
    with pytest.raises(UiaRequired):
        await registration.register(wish("alice"), DUMMY)
    made = await registration.register(wish("alice"), by_token(token))
    assert made.access_token is not None
    assert (await closed.accounts.authentication.owner_of(made.access_token)).admin
    assert await gate.ensure_first_account_token() is None
    with pytest.raises(Forbidden):
        await registration.register(wish("bob"), by_token(token))


async def test_the_one_time_token_ends_with_the_first_account(closed: Setting) -> None:
    """However that was made: a token that was printed once must not make administrators for ever."""
    gate, registration = closed.accounts.gate, closed.accounts.registration
    token = await gate.ensure_first_account_token()
    assert token is not None
    alice = NewUser(user_id="@alice:example.org", password_hash="")
    users = UserStore(closed.database)
    await closed.database.transaction("test", lambda txn: users.create_txn(txn, alice, 0))
    with pytest.raises(Forbidden):
        await gate.is_token_valid(token)
    with pytest.raises(Forbidden):
        await registration.register(wish("mallory"), by_token(token))


async def test_open_registration_makes_no_first_token(accounts: Setting) -> None:
    """There is no need for one."""
    assert await accounts.accounts.gate.ensure_first_account_token() is None


async def test_a_registration_token_is_worth_its_uses(with_token: Setting) -> None:
    """A use is held from the stage on, given back when the session expires, and spent by the account."""
    services = with_token.accounts
    await with_token.allow("welcome", 1)
    register, valid = services.registration.register, services.gate.is_token_valid
    with pytest.raises(UiaRequired) as caught:
        await register(wish("alice"), None)
    held = session_of(caught)
    await services.uia.complete_elsewhere(held, "m.login.registration_token", {"token": "welcome"})
    assert not await valid("welcome")
    with pytest.raises(UiaRequired):
        await register(wish("bob"), by_token("welcome"))
    with_token.clock.advance(16 * 60)
    assert await valid("welcome")
    made = await register(wish("bob"), by_token("welcome"))
    assert made.user_id == "@bob:example.org"
    assert not await valid("welcome")
    with_token.clock.advance(16 * 60)
    assert not await valid("welcome")


async def test_simultaneous_uses_of_the_last_use(with_token: Setting) -> None:
    """One gets it."""
    await with_token.allow("welcome", 1)
    register = with_token.accounts.registration.register
    attempts = [
        Deferred.fromCoroutine(register(wish(f"user{number}"), by_token("welcome"))) for number in range(5)
    ]
    results = await DeferredList(attempts, consumeErrors=True)
    assert sum(success for success, _ in results) == 1


async def test_a_name_taken_meanwhile_leaves_the_session(with_token: Setting) -> None:
    """The client chooses another name without going through the stages again."""
    await with_token.allow("welcome", 1)
    register = with_token.accounts.registration.register
    with pytest.raises(UiaRequired) as caught:
        await register(wish("alice"), None)
    session = session_of(caught)
    with pytest.raises(MissingParam):
        await register(wish("alice", None), by_token("welcome", session))
    made = await register(wish("alicia"), {"session": session})
    assert made.user_id == "@alicia:example.org"


async def test_terms_are_presented_and_their_versions_kept(database: Database) -> None:
    """Stages come in order: the token, then the terms."""
    settings = Registration(enabled=True, requires_token=True, terms=TERMS)
    with accounts_on(database, registration=settings) as setting:
        await setting.allow("welcome")
        register = setting.accounts.registration.register
        with pytest.raises(UiaRequired) as caught:
            await register(wish("alice"), None)
        policies = {"privacy": {"version": "1.2", "en": {"name": "P", "url": "https://x.org/"}}}
        assert caught.value.as_dict()["params"] == {"m.login.terms": {"policies": policies}}
        session = session_of(caught)
        with pytest.raises(UiaRequired):  # out of order
            await register(wish("alice"), {"type": "m.login.terms", "session": session})
        with pytest.raises(UiaRequired) as caught:
            await register(wish("alice"), by_token("welcome", session))
        assert caught.value.as_dict()["completed"] == ["m.login.registration_token"]
        await register(wish("alice"), {"type": "m.login.terms", "session": session})
        row = await database.fetch_one("terms", "SELECT terms_accepted FROM users")
        assert row == ({"privacy": "1.2"},)


async def test_a_guest_becomes_a_user_under_its_own_name(database: Database) -> None:
    """The guest's token is the proof, and ends."""
    settings = Registration(enabled=True, requires_token=False, allow_guests=True)
    with accounts_on(database, registration=settings) as setting:
        registration, authentication = setting.accounts.registration, setting.accounts.authentication
        guest = await registration.register_guest("Visitor")
        assert guest.access_token is not None
        assert (await authentication.owner_of(guest.access_token)).guest
        with pytest.raises(InvalidUsername):
            await registration.register(wish("other", guest_access_token=guest.access_token), DUMMY)
        name = guest.user_id[1:].partition(":")[0]
        made = await registration.register(wish(name, guest_access_token=guest.access_token), DUMMY)
        assert made.user_id == guest.user_id and made.access_token is not None
        assert not (await authentication.owner_of(made.access_token)).guest
        with pytest.raises(MatrixError):
            await authentication.owner_of(guest.access_token)
        assert (await setting.log_in(name)).user_id == guest.user_id


def shared_secret_request(nonce: str, **changes: Any) -> SharedSecretRequest:
    """A request whose proof is right for what it was before `changes`."""
    fields = (nonce, "alice", "pass", "admin")
    mac = hmac.new(SECRET.encode(), "\0".join(fields).encode(), hashlib.sha1).hexdigest()
    whole: dict[str, Any] = {
        "nonce": nonce,
        "username": "alice",
        "password": "pass",
        "admin": True,
        "user_type": None,
        "mac": mac,
        "display_name": "Alice",
        "device": DeviceRequest(),
    }
    return SharedSecretRequest(**{**whole, **changes})


async def test_the_shared_secret_registers_while_registration_is_closed(closed: Setting) -> None:
    """With the rights and the name asked for; the nonce serves once."""
    service = closed.accounts.shared_secret
    nonce = await service.nonce()
    made = await service.register(shared_secret_request(nonce))
    assert made.access_token is not None
    assert (await closed.accounts.authentication.owner_of(made.access_token)).admin
    assert closed.comings.arrived == [("@alice:example.org", "Alice")]
    with pytest.raises(Unknown):
        await service.register(shared_secret_request(nonce, username="bob"))


@pytest.mark.parametrize(
    "changes",
    [{"username": "mallory"}, {"password": "p"}, {"admin": False}, {"user_type": "bot"}, {"mac": ""}],
)
async def test_a_proof_is_for_exactly_one_account(closed: Setting, changes: dict[str, Any]) -> None:
    """Whatever is changed under it, it does not hold; and its nonce is spent."""
    service = closed.accounts.shared_secret
    nonce = await service.nonce()
    with pytest.raises(Forbidden):
        await service.register(shared_secret_request(nonce, **changes))
    with pytest.raises(Unknown):
        await service.register(shared_secret_request(nonce))


async def test_nonces_expire_and_cannot_be_made_up(closed: Setting) -> None:
    """After a minute; and without the server."""
    service = closed.accounts.shared_secret
    nonce = await service.nonce()
    closed.clock.advance(61)
    for each in (nonce, "made-up"):
        with pytest.raises(Unknown):
            await service.register(shared_secret_request(each))


def test_an_empty_secret_is_no_secret() -> None:
    """A server must refuse to run with one rather than let anybody in."""
    from homeserver.accounts.registration_by_secret import SharedSecretRegistration

    nothing: Any = None
    with pytest.raises(ValueError, match="empty"):
        SharedSecretRegistration(
            secret="", usernames=nothing, nonces=nothing, maker=nothing, hasher=nothing, clock=lambda: 0
        )
