# SPDX-License-Identifier: Apache-2.0
"""Changing the password and closing the account; filters and OpenID tokens."""

import pytest

from homeserver.accounts.own_account import RETRY_MS
from homeserver.errors import Forbidden, NotFound, TooLarge, UnknownToken, WeakPassword
from homeserver.protocol.filters import FilterError
from storage.filters import MOST_PER_USER
from tests.accounts.serving import Setting, actor_of, password_auth

NEW = "an even better password"


@pytest.mark.parametrize("logout_devices", [True, False])
async def test_a_new_password_logs_the_other_devices_out_if_asked(
    accounts: Setting, logout_devices: bool
) -> None:
    """The device that asked stays in any case."""
    made, other = await accounts.register("alice"), await accounts.log_in("alice")
    assert made.access_token is not None and other.access_token is not None
    change = accounts.accounts.own_account.change_password
    auth = password_auth("alice")
    with pytest.raises(WeakPassword):
        await change(actor_of(made), "short", logout_devices=True, auth=auth)
    await change(actor_of(made), NEW, logout_devices=logout_devices, auth=auth)
    authentication = accounts.accounts.authentication
    assert (await authentication.owner_of(made.access_token)).user_id == made.user_id
    if logout_devices:
        with pytest.raises(UnknownToken):
            await authentication.owner_of(other.access_token)
    else:
        assert (await authentication.owner_of(other.access_token)).user_id == made.user_id
    with pytest.raises(Forbidden):
        await accounts.log_in("alice")
    assert (await accounts.log_in("alice", NEW)).user_id == made.user_id


@pytest.mark.parametrize("erase", [True, False])
async def test_a_closed_account_departs(accounts: Setting, erase: bool) -> None:
    """And whether its owner wants to be forgotten is passed on."""
    made = await accounts.register("alice")
    await accounts.accounts.own_account.deactivate(actor_of(made), erase=erase, auth=password_auth("alice"))
    assert accounts.comings.departed == [(made.user_id, erase)]
    assert await accounts.accounts.own_account.finish_departures() == 0
    row = await accounts.database.fetch_one("user", "SELECT deactivated, erased, password_hash FROM users")
    assert row == (True, erase, None)


async def test_a_departure_cut_short_is_taken_up_again(accounts: Setting) -> None:
    """The account is closed at once; leaving goes on until it is done."""
    made = await accounts.register("alice")
    accounts.comings.failing = True
    await accounts.accounts.own_account.deactivate(actor_of(made), erase=True, auth=password_auth("alice"))
    with pytest.raises(Forbidden):
        await accounts.log_in("alice")
    accounts.clock.advance(RETRY_MS / 1000)
    await accounts.accounts.housekeeping.run()
    assert accounts.comings.departed == []
    accounts.comings.failing = False
    accounts.clock.advance(RETRY_MS / 1000)
    await accounts.accounts.housekeeping.run()
    await accounts.accounts.housekeeping.run()
    assert accounts.comings.departed == [(made.user_id, True)]


async def test_the_same_filter_has_the_same_id(accounts: Setting) -> None:
    """Whatever the order of its keys; unknown keys are kept; another user cannot read it."""
    made = await accounts.register("alice")
    await accounts.register("bob")
    filters = accounts.accounts.filters
    first = await filters.put(made.user_id, {"room": {"timeline": {"limit": 5}}, "org.example": "\0"})
    second = await filters.put(made.user_id, {"org.example": "\0", "room": {"timeline": {"limit": 5}}})
    assert first == second and not first.startswith("{")
    assert await filters.get(made.user_id, first) == (
        '{"org.example":"\\u0000","room":{"timeline":{"limit":5}}}'
    )
    with pytest.raises(NotFound):
        await filters.get("@bob:example.org", first)
    with pytest.raises(FilterError):
        await filters.put(made.user_id, {"room": {"timeline": {"limit": "5"}}})
    with pytest.raises(TooLarge):
        await filters.put(made.user_id, {"event_fields": ["x" * 70_000]})


async def test_a_users_filters_are_bounded(accounts: Setting) -> None:
    """The one uploaded longest ago goes."""
    made = await accounts.register("alice")
    ids = []
    for number in range(MOST_PER_USER + 1):
        accounts.clock.advance(1)
        ids.append(await accounts.accounts.filters.put(made.user_id, {"event_fields": [str(number)]}))
    with pytest.raises(NotFound):
        await accounts.accounts.filters.get(made.user_id, ids[0])
    assert await accounts.accounts.filters.get(made.user_id, ids[1]) == '{"event_fields":["1"]}'


async def test_an_openid_token_tells_who_for_an_hour(accounts: Setting) -> None:
    """And nothing about a locked user."""
    made = await accounts.register("alice")
    openid = accounts.accounts.openid
    token = (await openid.make(made.user_id)).token
    assert await openid.user_of(token) == made.user_id
    with pytest.raises(UnknownToken):
        await accounts.accounts.authentication.owner_of(token)
    await accounts.database.execute("lock", "UPDATE users SET locked = true")
    with pytest.raises(UnknownToken):
        await openid.user_of(token)
    await accounts.database.execute("lock", "UPDATE users SET locked = false")
    accounts.clock.advance(3600)
    with pytest.raises(UnknownToken):
        await openid.user_of(token)
