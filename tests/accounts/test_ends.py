# SPDX-License-Identifier: Apache-2.0
"""What ends with a session, a password or an account, though it was asked for before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from homeserver.accounts.sessions import DeviceRequest
from homeserver.accounts.stages import PASSWORD as PASSWORD_STAGE
from homeserver.errors import Forbidden, MatrixError, UiaRequired, UnknownToken, UserLocked
from storage.database import Transaction
from storage.users import UserStore
from tests.accounts.serving import Setting, actor_of, password_auth, session_of
from tests.reactor import reactor

NEW = "an even better password"
_WAITING = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
_LOCK_USER = "SELECT FROM users WHERE user_id = %s FOR UPDATE"

Ending = Callable[[Setting, Any], Awaitable[object]]


async def log_out(accounts: Setting, actor: Any) -> None:
    await accounts.accounts.sessions.close(actor)


async def log_out_everywhere(accounts: Setting, actor: Any) -> None:
    await accounts.accounts.sessions.close_all(actor.user_id)


async def log_out_the_others(accounts: Setting, actor: Any) -> None:
    """By a new password; the session that asked for the token stays."""
    await accounts.accounts.own_account.change_password(
        actor, NEW, logout_devices=True, auth=password_auth("alice")
    )


async def change_the_password(accounts: Setting, actor: Any) -> None:
    await accounts.accounts.own_account.change_password(
        actor, NEW, logout_devices=False, auth=password_auth("alice")
    )


async def close_the_account(accounts: Setting, actor: Any) -> None:
    await accounts.accounts.own_account.deactivate(actor, erase=False, auth=password_auth("alice"))


@pytest.mark.parametrize(
    "end",
    [
        log_out_everywhere,
        log_out_the_others,
        change_the_password,
        close_the_account,
    ],
)
async def test_a_login_token_ends_with_what_it_was_given_for(accounts: Setting, end: Ending) -> None:
    """All sessions, or the password that authorised it."""
    actor = actor_of(await accounts.register("alice"))
    token = (await accounts.accounts.login_tokens.make(actor, password_auth("alice"))).token
    await end(accounts, actor)
    with pytest.raises(Forbidden):
        await accounts.accounts.login.by_token(token, DeviceRequest())
    assert await accounts.database.fetch("tokens", "SELECT FROM login_tokens") == []


async def test_a_locked_user_does_not_log_in_by_a_login_token(accounts: Setting) -> None:
    actor = actor_of(await accounts.register("alice"))
    token = (await accounts.accounts.login_tokens.make(actor, password_auth("alice"))).token
    await accounts.database.execute("lock", "UPDATE users SET locked = true")
    with pytest.raises(UserLocked):
        await accounts.accounts.login.by_token(token, DeviceRequest())


async def test_who_was_logged_out_meanwhile_gets_no_login_token(accounts: Setting) -> None:
    """The request was let in before."""
    actor = actor_of(await accounts.register("alice"))
    await accounts.accounts.sessions.close(actor)
    with pytest.raises(UnknownToken):
        await accounts.accounts.login_tokens.make(actor, password_auth("alice"))


async def test_a_log_in_by_token_does_not_slip_through_logging_out_everywhere(accounts: Setting) -> None:
    """Both at once: the token is spent but the device not there yet when the others are deleted."""
    made = await accounts.register("alice")
    login, sessions = accounts.accounts.login, accounts.accounts.sessions
    token = (await accounts.accounts.login_tokens.make(actor_of(made), password_auth("alice"))).token
    under_way: list[Deferred[Any]] = []

    async def hold(txn: Transaction) -> None:
        await txn.fetch("hold", _LOCK_USER, (made.user_id,))
        under_way.append(Deferred.fromCoroutine(login.by_token(token, DeviceRequest())))
        await _waiting(accounts, 1)
        under_way.append(Deferred.fromCoroutine(sessions.close_all(made.user_id)))
        await _waiting(accounts, 2, unless=lambda: under_way[1].called)

    await accounts.database.transaction("hold", hold)
    await under_way[1]
    try:
        opened = await under_way[0]
    except Forbidden:
        return
    with pytest.raises(UnknownToken):
        await accounts.accounts.authentication.owner_of(opened.access_token)


async def _waiting(accounts: Setting, number: int, unless: Callable[[], bool] = lambda: False) -> None:
    """Return once so many statements wait for a lock."""
    while len(await accounts.database.fetch("waiting", _WAITING)) < number and not unless():
        await deferLater(reactor, 0)


async def test_a_new_password_and_the_log_out_of_the_others_stand_or_fall_together(accounts: Setting) -> None:
    """A process that dies between the two would leave a thief logged in whom the new password was to keep out."""
    made = await accounts.register("alice")
    await accounts.database.execute(
        "fail",
        """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;
        CREATE TRIGGER refuse BEFORE DELETE ON devices FOR EACH STATEMENT EXECUTE FUNCTION refuse()""",
    )
    with pytest.raises(Exception, match="not now"):
        await log_out_the_others(accounts, actor_of(made))
    assert (await accounts.log_in("alice")).user_id == made.user_id


async def test_what_the_old_password_authorised_ends_with_it(accounts: Setting) -> None:
    """An authentication completed on the fallback page and not used yet."""
    actor = actor_of(await accounts.register("alice"))
    make = accounts.accounts.login_tokens.make
    with pytest.raises(UiaRequired) as caught:
        await make(actor, None)
    session = session_of(caught)
    await accounts.accounts.uia.complete_elsewhere(session, PASSWORD_STAGE, password_auth("alice"))
    await change_the_password(accounts, actor)
    with pytest.raises(UiaRequired):
        await make(actor, {"session": session})


async def test_a_refresh_token_exchanged_while_the_account_is_closed(accounts: Setting) -> None:
    """Whichever comes first, no token is left."""
    made = await accounts.register("alice", refresh=True)
    assert made.refresh_token is not None
    under_way: list[Deferred[Any]] = [
        Deferred.fromCoroutine(accounts.accounts.sessions.refresh(made.refresh_token)),
        Deferred.fromCoroutine(close_the_account(accounts, actor_of(made))),
    ]
    await under_way[1]
    try:
        refreshed = await under_way[0]
    except MatrixError:
        pass
    else:
        with pytest.raises(UnknownToken):
            await accounts.accounts.authentication.owner_of(refreshed.access_token)
    assert await accounts.database.fetch("tokens", "SELECT FROM access_tokens") == []
    assert await accounts.database.fetch("tokens", "SELECT FROM refresh_tokens") == []


async def test_a_refresh_token_exchanged_while_its_session_ends(accounts: Setting) -> None:
    """Neither waits for what the other holds, so that logging out never fails."""
    made = await accounts.register("alice", refresh=True)
    assert made.refresh_token is not None
    accounts.clock.advance(2 * 86_400)
    under_way: list[Deferred[Any]] = []

    async def hold(txn: Transaction) -> None:
        await txn.fetch("hold", "SELECT FROM access_tokens FOR UPDATE")
        under_way.append(Deferred.fromCoroutine(accounts.accounts.sessions.refresh(made.refresh_token or "")))
        await _waiting(accounts, 1)
        under_way.append(Deferred.fromCoroutine(log_out(accounts, actor_of(made))))
        await _waiting(accounts, 2)

    await accounts.database.transaction("hold", hold)
    await under_way[1]
    refreshed = await under_way[0]
    with pytest.raises(UnknownToken):
        await accounts.accounts.authentication.owner_of(refreshed.access_token)


async def test_who_finds_the_account_closed_has_it_depart_again(accounts: Setting) -> None:
    """What was under way when it was closed has written after everything was left."""
    made = await accounts.register("alice")
    users, housekeeping = UserStore(accounts.database), accounts.accounts.housekeeping
    assert not await users.depart_again(made.user_id)
    await close_the_account(accounts, actor_of(made))
    assert await users.depart_again(made.user_id)
    await housekeeping.run()
    await housekeeping.run()
    assert len(accounts.comings.departed) == 2
