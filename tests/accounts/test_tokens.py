# SPDX-License-Identifier: Apache-2.0
"""Access and refresh tokens: what they open, when they end, who hears of it."""

import tracemalloc

import pytest

from homeserver.accounts.sessions import DeviceRequest
from homeserver.errors import InvalidParam, UnknownToken, UserLocked
from storage.database import Database
from storage.tokens import TokenOwner, TokenStore
from tests.accounts.serving import PASSWORD, Setting, accounts_on, actor_of


async def owner(setting: Setting, token: str | None) -> str:
    """The user a token opens for."""
    assert token is not None
    return (await setting.accounts.authentication.owner_of(token)).user_id


async def refused(setting: Setting, token: str | None) -> bool:
    """The `soft_logout` with which a token is refused."""
    assert token is not None
    with pytest.raises(UnknownToken) as caught:
        await setting.accounts.authentication.owner_of(token)
    return caught.value.fields["soft_logout"] is True


async def test_a_token_opens_for_its_owner_until_log_out(accounts: Setting) -> None:
    """Log-out ends the token hard, from the memory too, and leaves the user's other device alone."""
    first = await accounts.register("alice")
    second = await accounts.log_in("alice")
    assert await owner(accounts, first.access_token) == "@alice:example.org"
    await accounts.accounts.sessions.close(actor_of(first))
    assert await refused(accounts, first.access_token) is False
    assert await owner(accounts, second.access_token) == "@alice:example.org"


async def test_tokens_are_not_stored_in_clear(accounts: Setting) -> None:
    """Nothing that opens anything can be read from the database: no token, no password."""
    made = await accounts.register("alice", refresh=True)
    assert made.access_token is not None and made.refresh_token is not None
    openid = await accounts.accounts.openid.make(made.user_id)
    actor = actor_of(made)
    auth = {"type": "m.login.password", "user": "alice", "password": PASSWORD}
    login_token = await accounts.accounts.login_tokens.make(actor, auth)
    stored = await accounts.everything()
    assert "@alice:example.org" in stored
    for secret in (made.access_token, made.refresh_token, openid.token, login_token.token, PASSWORD):
        assert secret not in stored
        assert secret.encode().hex() not in stored


async def test_an_expired_token_is_a_soft_log_out_while_its_device_exists(accounts: Setting) -> None:
    """Expired: log in again and keep the keys. Device deleted: all is gone."""
    made = await accounts.register("alice", refresh=True)
    accounts.clock.advance(3600)
    assert await refused(accounts, made.access_token) is True
    await accounts.accounts.sessions.close_all(made.user_id)
    assert await refused(accounts, made.access_token) is False


async def test_the_old_refresh_token_works_until_the_new_tokens_are_used(accounts: Setting) -> None:
    """A client that lost the answer repeats the refresh; one that used it cannot go back."""
    sessions = accounts.accounts.sessions
    made = await accounts.register("alice", refresh=True)
    assert made.refresh_token is not None
    lost = await sessions.refresh(made.refresh_token)
    kept = await sessions.refresh(made.refresh_token)
    assert kept.device_id == made.device_id
    assert await refused(accounts, lost.access_token) is False
    assert await owner(accounts, kept.access_token) == "@alice:example.org"
    with pytest.raises(UnknownToken):
        await sessions.refresh(made.refresh_token)


async def test_using_the_new_refresh_token_ends_the_old_one(accounts: Setting) -> None:
    """The chain goes on although the access token in between was never used."""
    sessions = accounts.accounts.sessions
    made = await accounts.register("alice", refresh=True)
    assert made.refresh_token is not None
    second = await sessions.refresh(made.refresh_token)
    assert second.refresh_token is not None
    third = await sessions.refresh(second.refresh_token)
    with pytest.raises(UnknownToken):
        await sessions.refresh(made.refresh_token)
    assert await owner(accounts, third.access_token) == "@alice:example.org"


async def test_requests_under_way_survive_a_refresh(accounts: Setting) -> None:
    """The replaced access token works for a minute, and then is a soft log-out: the client must not lose its keys."""
    sessions = accounts.accounts.sessions
    made = await accounts.register("alice", refresh=True)
    assert made.refresh_token is not None
    renewed = await sessions.refresh(made.refresh_token)
    await owner(accounts, renewed.access_token)
    assert await owner(accounts, made.access_token) == "@alice:example.org"
    accounts.clock.advance(61)
    assert await refused(accounts, made.access_token) is True
    assert await owner(accounts, renewed.access_token) == "@alice:example.org"


async def test_old_access_tokens_do_not_pile_up(accounts: Setting) -> None:
    """A device that refreshes for weeks has a handful of rows."""
    made = await accounts.register("alice", refresh=True)
    token = made.refresh_token
    for _ in range(40):
        assert token is not None
        renewed = await accounts.accounts.sessions.refresh(token)
        await owner(accounts, renewed.access_token)
        accounts.clock.advance(7200)
        token = renewed.refresh_token
    counted = await accounts.database.fetch_one("count", "SELECT count(*) FROM access_tokens")
    assert counted is not None and counted[0] <= 15
    counted = await accounts.database.fetch_one("count", "SELECT count(*) FROM refresh_tokens")
    assert counted is not None and counted[0] <= 2


async def test_logging_in_on_a_device_again_replaces_its_tokens(accounts: Setting) -> None:
    """The device keeps the name it has."""
    first = await accounts.register("alice", device_id="PHONE", display_name="Phone")
    assert await owner(accounts, first.access_token) == "@alice:example.org"
    second = await accounts.log_in("alice", device_id="PHONE", display_name="Other")
    assert await refused(accounts, first.access_token) is False
    assert await owner(accounts, second.access_token) == "@alice:example.org"
    assert (await accounts.accounts.own_devices.get(first.user_id, "PHONE")).display_name == "Phone"


async def test_another_process_hears_of_a_log_out(accounts: Setting, database: Database) -> None:
    """What one process remembers of a token is forgotten when another ends it."""
    made = await accounts.register("alice")  # of which nobody who listens later hears
    with accounts_on(database, clock=accounts.clock) as other:
        await other.accounts.authentication.start(database)
        assert await owner(other, made.access_token) == "@alice:example.org"
        heard = other.accounts.cache.epoch
        await accounts.accounts.sessions.close_all(made.user_id)
        while other.accounts.cache.epoch == heard:
            # Each round trip gives the notification, sent at the commit before it, a turn to arrive.
            await database.fetch_one("turn", "SELECT 1")
        assert await refused(other, made.access_token) is False


async def test_a_look_up_that_crossed_a_revocation_is_not_remembered(accounts: Setting) -> None:
    """It may have read what was true before."""
    made = await accounts.register("alice")
    assert made.access_token is not None
    cache, authentication = accounts.accounts.cache, accounts.accounts.authentication
    looked_up = await authentication.owner_of(made.access_token)
    cache.forget_all()
    cache.put(b"x" * 32, looked_up, cache.epoch - 1)
    assert cache.get(b"x" * 32) is None
    cache.put(b"x" * 32, looked_up, cache.epoch)
    assert cache.get(b"x" * 32) is looked_up
    accounts.clock.advance(61)
    assert cache.get(b"x" * 32) is None


async def test_a_token_that_is_revoked_while_it_is_looked_up_lets_nobody_in(
    accounts: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read before the log-out arrives after it."""
    made = await accounts.register("alice")
    find = TokenStore.find

    async def overtaken(self: TokenStore, hashed: bytes) -> TokenOwner | None:
        found = await find(self, hashed)
        monkeypatch.undo()
        await accounts.accounts.sessions.close_all(made.user_id)
        return found

    monkeypatch.setattr(TokenStore, "find", overtaken)
    assert await refused(accounts, made.access_token) is False


async def test_a_remembered_token_costs_no_query(accounts: Setting) -> None:
    """The hot path: one query for the first request of a minute, none for the rest."""
    made = await accounts.register("alice")
    await owner(accounts, made.access_token)
    await accounts.database.execute("gone", "DELETE FROM access_tokens")
    assert await owner(accounts, made.access_token) == "@alice:example.org"


async def test_long_tokens_of_strangers_are_not_kept(accounts: Setting) -> None:
    """Hashes are remembered by token, and anybody may send what is none."""
    authentication = accounts.accounts.authentication
    tracemalloc.start()
    try:
        for number in range(200):
            assert authentication.remembered(f"{number:032768}") is None
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2**20


async def test_a_watcher_hears_of_a_users_changes_until_it_stops(accounts: Setting) -> None:
    """What streams rely on to notice that their token ended."""
    made = await accounts.register("alice")
    heard: list[str] = []
    stop = accounts.accounts.cache.watch(made.user_id, lambda: heard.append("changed"))
    await accounts.accounts.sessions.close_all(made.user_id)
    assert heard == ["changed"]
    stop()
    accounts.accounts.cache.forget(made.user_id)
    assert heard == ["changed"]


async def test_a_locked_user_cannot_refresh(accounts: Setting) -> None:
    """And keeps the refresh token for when the lock is lifted."""
    made = await accounts.register("alice", refresh=True)
    assert made.refresh_token is not None
    await accounts.database.execute("lock", "UPDATE users SET locked = true")
    with pytest.raises(UserLocked):
        await accounts.accounts.sessions.refresh(made.refresh_token)
    await accounts.database.execute("lock", "UPDATE users SET locked = false")
    assert (await accounts.accounts.sessions.refresh(made.refresh_token)).access_token is not None


async def test_sightings_are_written_once_a_minute_and_in_one_statement(accounts: Setting) -> None:
    """A device's last use is recorded without a write per request."""
    alice, bob = await accounts.register("alice"), await accounts.register("bob")
    authentication, sightings = accounts.accounts.authentication, accounts.accounts.sightings
    for made in (alice, bob, alice):
        assert made.access_token is not None
        await authentication.authenticate(made.access_token, ip="192.0.2.1", user_agent="test")
    await sightings.flush()
    first = accounts.clock.now
    accounts.clock.advance(30)
    assert alice.access_token is not None and alice.device_id is not None
    await authentication.authenticate(alice.access_token, ip="192.0.2.2", user_agent="test")
    await sightings.flush()
    seen = await accounts.accounts.own_devices.get(alice.user_id, alice.device_id)
    assert (seen.last_seen_ts, seen.last_seen_ip, seen.last_seen_user_agent) == (first, "192.0.2.1", "test")
    accounts.clock.advance(31)
    await authentication.authenticate(alice.access_token, ip="192.0.2.2", user_agent="test")
    await sightings.flush()
    seen = await accounts.accounts.own_devices.get(alice.user_id, alice.device_id)
    assert (seen.last_seen_ts, seen.last_seen_ip) == (accounts.clock.now, "192.0.2.2")


@pytest.mark.parametrize(
    "wishes", [{"device_id": "x" * 256}, {"display_name": "x" * 257}], ids=["device id", "display name"]
)
def test_impossible_devices_are_refused(wishes: dict[str, str]) -> None:
    """Before anything else is asked."""
    with pytest.raises(InvalidParam):
        DeviceRequest(device_id=wishes.get("device_id"), display_name=wishes.get("display_name")).check()


async def test_stopping_writes_what_was_seen(accounts: Setting) -> None:
    """The recurring work begins and ends with the services, and nothing noted is lost by a clean stop."""
    made = await accounts.register("alice")
    assert made.access_token is not None and made.device_id is not None
    await accounts.accounts.start()
    await accounts.accounts.authentication.authenticate(made.access_token, ip="192.0.2.1", user_agent="x\0y")
    await accounts.accounts.housekeeping.stop()
    await accounts.accounts.sightings.stop()
    seen = await accounts.accounts.own_devices.get(made.user_id, made.device_id)
    assert (seen.last_seen_ip, seen.last_seen_user_agent) == ("192.0.2.1", "xy")
