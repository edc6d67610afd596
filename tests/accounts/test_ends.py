# SPDX-License-Identifier: Apache-2.0
"""What ends with a session, a password or an account, though it was asked for before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from homeserver.accounts.own_account import RETRY_MS, SETTLED_MS
from homeserver.accounts.sessions import DeviceRequest
from homeserver.accounts.stages import PASSWORD as PASSWORD_STAGE
from homeserver.errors import Forbidden, MatrixError, NotFound, UiaRequired, UnknownToken, UserLocked
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


async def delete_the_device(accounts: Setting, actor: Any) -> None:
    """From another device."""
    other = await accounts.log_in("alice")
    await accounts.accounts.own_devices.delete(actor_of(other), [actor.device_id], password_auth("alice"))


async def log_in_anew_on_the_device(accounts: Setting, actor: Any) -> None:
    """Which ends the session that was there."""
    await accounts.log_in("alice", device_id=actor.device_id)


async def close_the_account(accounts: Setting, actor: Any) -> None:
    await accounts.accounts.own_account.deactivate(actor, erase=False, auth=password_auth("alice"))


@pytest.mark.parametrize(
    "end",
    [
        log_out,
        log_out_everywhere,
        log_out_the_others,
        change_the_password,
        delete_the_device,
        log_in_anew_on_the_device,
        close_the_account,
    ],
)
async def test_a_login_token_ends_with_what_it_was_given_for(accounts: Setting, end: Ending) -> None:
    """The session that asked for it, or the password that authorised it."""
    actor = actor_of(await accounts.register("alice"))
    token = (await accounts.accounts.login_tokens.make(actor, password_auth("alice"))).token
    await end(accounts, actor)
    with pytest.raises(Forbidden):
        await accounts.accounts.login.by_token(token, DeviceRequest())
    assert await accounts.database.fetch("tokens", "SELECT FROM login_tokens") == []


async def test_a_login_token_outlives_the_end_of_other_sessions(accounts: Setting) -> None:
    """And it may log in on the very device that asked for it, whose session it then replaces."""
    actor = actor_of(await accounts.register("alice"))
    other = actor_of(await accounts.log_in("alice"))
    token = (await accounts.accounts.login_tokens.make(actor, password_auth("alice"))).token
    await accounts.accounts.sessions.close(other)
    again = await accounts.accounts.login.by_token(token, DeviceRequest(device_id=actor.device_id))
    assert again.device_id == actor.device_id


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


async def test_what_was_under_way_when_the_account_was_closed_goes_later(accounts: Setting) -> None:
    """Requests let in before write after everything was left: it is left once more, and then no more."""
    made = await accounts.register("alice")
    await close_the_account(accounts, actor_of(made))
    late = await accounts.accounts.filters.put(made.user_id, {"room": {}})
    await accounts.database.execute(
        "late", "INSERT INTO devices (user_id, device_id, created_ts) VALUES (%s, 'LATE', 0)", (made.user_id,)
    )
    housekeeping, departed = accounts.accounts.housekeeping, accounts.comings.departed
    accounts.clock.advance(SETTLED_MS / 1000 - 1)
    await housekeeping.run()
    assert len(departed) == 1
    accounts.clock.advance(1)
    await housekeeping.run()
    assert departed == [(made.user_id, False)] * 2
    with pytest.raises(NotFound):
        await accounts.accounts.filters.get(made.user_id, late)
    assert await accounts.accounts.own_devices.list(made.user_id) == []
    accounts.clock.advance(SETTLED_MS / 1000)
    await housekeeping.run()
    assert len(departed) == 2


async def test_who_finds_the_account_closed_has_it_depart_again(accounts: Setting) -> None:
    """Also while a departure is under way, which may have passed already what is to be left."""
    made = await accounts.register("alice")
    users, housekeeping = UserStore(accounts.database), accounts.accounts.housekeeping
    assert not await users.depart_again(made.user_id)
    await housekeeping.run()
    assert accounts.comings.departed == []
    await close_the_account(accounts, actor_of(made))
    accounts.clock.advance(SETTLED_MS / 1000)
    await housekeeping.run()
    accounts.comings.meanwhile = lambda: users.depart_again(made.user_id)
    assert await users.depart_again(made.user_id)
    await housekeeping.run()
    accounts.comings.meanwhile = None
    await housekeeping.run()
    await housekeeping.run()
    assert len(accounts.comings.departed) == 4


async def test_departures_that_fail_do_not_keep_others_waiting(accounts: Setting) -> None:
    """What failed is tried again after those that wait already; what one process took up, no other does."""
    users, now = UserStore(accounts.database), accounts.clock.now
    for name in ("alice", "bob"):
        made = await accounts.register(name)
        await users.deactivate(made.user_id, erase=False, now=now, until=now)
    claimed = [await users.claim_departing(now, now + RETRY_MS, 1) for _ in range(3)]
    assert [[each.user_id for each in some] for some in claimed] == [
        ["@alice:example.org"],
        ["@bob:example.org"],
        [],
    ]
    again = await users.claim_departing(now + RETRY_MS, now + 2 * RETRY_MS, 10)
    assert len(again) == 2
    await users.departed(claimed[0][0], again_ts=None)
    assert len(await users.claim_departing(now + 2 * RETRY_MS, now + 3 * RETRY_MS, 10)) == 2
