# SPDX-License-Identifier: Apache-2.0
"""Logging in: who may, who may not, and what is told to those who may not."""

import logging
from typing import Any

import pytest

from homeserver.accounts.passwords import PasswordHasher
from homeserver.accounts.sessions import DeviceRequest
from homeserver.config.sections import Passwords
from homeserver.errors import Forbidden, LimitExceeded, MatrixError, MissingParam, UiaRequired, UserLocked
from tests.accounts.serving import PASSWORD, Setting, actor_of, password_auth, session_of
from tests.reactor import reactor

USER = {"type": "m.id.user", "user": "alice"}


@pytest.mark.parametrize(
    "body",
    [
        {"identifier": {"type": "m.id.user", "user": "alice"}},
        {"identifier": {"type": "m.id.user", "user": "@alice:example.org"}},
        {"identifier": {"type": "m.id.user", "user": "ALICE"}},
        {"user": "alice"},
        {"user": "@alice:example.org"},
    ],
)
async def test_ways_to_name_oneself(accounts: Setting, body: dict[str, Any]) -> None:
    """The identifier and the keys before it; a name in capitals is the name."""
    await accounts.register("alice")
    made = await accounts.accounts.login.by_password(body, PASSWORD, DeviceRequest())
    assert made.user_id == "@alice:example.org"
    assert made.expires_in_ms is None


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"identifier": {"type": "m.id.user", "user": "nobody"}}, Forbidden),
        ({"identifier": {"type": "m.id.user", "user": "@alice:elsewhere.org"}}, Forbidden),
        ({"identifier": {"type": "m.id.thirdparty", "medium": "email", "address": "a@b.c"}}, Forbidden),
        ({"medium": "email", "address": "a@b.c"}, Forbidden),
        ({"identifier": {"type": "m.id.user"}}, MissingParam),
        ({}, MissingParam),
        ({"identifier": {"type": "m.id.unheard"}}, MatrixError),
    ],
)
async def test_names_that_are_nobodys(
    accounts: Setting, body: dict[str, Any], error: type[MatrixError]
) -> None:
    """Unknown people and third-party identifiers are refused like a wrong password."""
    await accounts.register("alice")
    with pytest.raises(error):
        await accounts.accounts.login.by_password(body, PASSWORD, DeviceRequest())


async def test_a_refreshing_client_gets_an_expiring_token(accounts: Setting) -> None:
    """And others a token that lasts."""
    made = await accounts.register("alice", refresh=True)
    assert made.refresh_token is not None and made.expires_in_ms == 3_600_000
    assert (await accounts.log_in("alice")).refresh_token is None


async def test_too_many_failures_stop_even_the_right_password(accounts: Setting) -> None:
    """Failures are counted by account, in any spelling."""
    await accounts.register("alice")
    accounts.guesses.most = 3
    for name in ("alice", "ALICE", "@alice:example.org"):
        with pytest.raises(Forbidden):
            await accounts.log_in(name, "wrong password")
    with pytest.raises(LimitExceeded):
        await accounts.log_in("alice")


async def test_a_name_too_long_for_anybody_is_not_counted(accounts: Setting) -> None:
    """What counts guesses keeps the names, so they must be bounded."""
    for user in ("x" * 100_000, "@" + "x" * 100_000 + ":example.org"):
        with pytest.raises(Forbidden):
            await accounts.log_in(user)
    assert not accounts.guesses.failures


async def test_advisory_17_a_deactivated_user_can_not_log_in_by_any_flow(accounts: Setting) -> None:
    """Password, login token, refresh token, access token, user-interactive password, registering the name anew."""
    made = await accounts.register("alice", refresh=True)
    actor = actor_of(made)
    services = accounts.accounts
    login_token = await services.login_tokens.make(actor, password_auth("alice"))
    await services.own_account.deactivate(actor, erase=False, auth=password_auth("alice"))
    assert made.access_token is not None and made.refresh_token is not None
    with pytest.raises(Forbidden):
        await accounts.log_in("alice")
    with pytest.raises(Forbidden):
        await services.login.by_token(login_token.token, DeviceRequest())
    with pytest.raises(MatrixError):
        await services.sessions.refresh(made.refresh_token)
    with pytest.raises(MatrixError):
        await services.authentication.owner_of(made.access_token)
    with pytest.raises(UiaRequired):
        await services.login_tokens.make(actor, password_auth("alice"))
    with pytest.raises(MatrixError):
        await accounts.register("alice")
    # Even if a token or a password came back by other ways, the account stays closed.
    hashed = await services.hasher.hash(PASSWORD)
    await accounts.database.execute("restore", "UPDATE users SET password_hash = %s", (hashed,))
    with pytest.raises(Forbidden):
        await accounts.log_in("alice")


async def test_a_locked_user_is_told_so_only_with_the_password(accounts: Setting) -> None:
    """Who guesses learns nothing of the lock."""
    await accounts.register("alice")
    await accounts.database.execute("lock", "UPDATE users SET locked = true")
    with pytest.raises(Forbidden):
        await accounts.log_in("alice", "wrong password")
    with pytest.raises(UserLocked):
        await accounts.log_in("alice")


async def test_a_login_token_serves_once(accounts: Setting) -> None:
    """And only for two minutes."""
    made = await accounts.register("alice")
    services = accounts.accounts
    first = await services.login_tokens.make(actor_of(made), password_auth("alice"))
    logged_in = await services.login.by_token(first.token, DeviceRequest())
    assert logged_in.user_id == made.user_id and logged_in.device_id != made.device_id
    with pytest.raises(Forbidden):
        await services.login.by_token(first.token, DeviceRequest())
    second = await services.login_tokens.make(actor_of(made), password_auth("alice"))
    accounts.clock.advance(121)
    with pytest.raises(Forbidden):
        await services.login.by_token(second.token, DeviceRequest())


async def test_every_login_token_asks_for_authentication_anew(accounts: Setting) -> None:
    """A session that served for one token does not serve for another."""
    made = await accounts.register("alice")
    make = accounts.accounts.login_tokens.make
    with pytest.raises(UiaRequired) as caught:
        await make(actor_of(made), None)
    session = session_of(caught)
    await make(actor_of(made), password_auth("alice", session))
    with pytest.raises(UiaRequired):
        await make(actor_of(made), {"session": session})


async def test_the_password_is_neither_logged_nor_stored(
    accounts: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    """Through registering, a wrong and a right log-in, half-done authentication and a change of password."""
    caplog.set_level(logging.DEBUG)
    made = await accounts.register("alice")
    new = "an even better password"
    with pytest.raises(Forbidden):
        await accounts.log_in("alice", "a wrong password")
    change = accounts.accounts.own_account.change_password
    with pytest.raises(UiaRequired) as caught:
        await change(actor_of(made), new, logout_devices=True, auth=None)
    assert new not in await accounts.everything()
    auth = password_auth("alice", session_of(caught))
    await change(actor_of(made), new, logout_devices=True, auth=auth)
    await accounts.log_in("alice", new)
    everything = await accounts.everything() + caplog.text + repr(made)
    for secret in (PASSWORD, new, "a wrong password", made.access_token or ""):
        assert secret not in everything


async def test_a_hash_costs_what_is_configured() -> None:
    """By default three passes over 32 MiB."""
    config = Passwords()
    hasher = PasswordHasher(reactor, time_cost=config.argon2_time_cost, memory=config.argon2_memory)
    try:
        assert (await hasher.hash(PASSWORD)).startswith("$argon2id$v=19$m=32768,t=3,p=1$")
    finally:
        hasher.close()


async def test_a_hash_of_old_parameters_is_renewed_at_log_in(accounts: Setting) -> None:
    """So that a raised cost reaches the accounts that are used."""
    await accounts.register("alice")
    weak = "$argon2id$v=19$m=8,t=1,p=1$"
    from argon2 import PasswordHasher as Argon2

    old = Argon2(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    assert old.startswith(weak)
    await accounts.database.execute("old", "UPDATE users SET password_hash = %s", (old,))
    await accounts.log_in("alice")
    row = await accounts.database.fetch_one("hash", "SELECT password_hash FROM users")
    assert row is not None and not row[0].startswith(weak)
    await accounts.log_in("alice")
