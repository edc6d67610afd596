# SPDX-License-Identifier: Apache-2.0
"""What administrators may do to accounts, and nobody else."""

import pytest

from homeserver.accounts.moderation import Standing
from homeserver.errors import Forbidden, InvalidParam, MatrixError, NotFound, Unknown
from tests.accounts.serving import Setting, actor_of

ALICE, BOB, CAROL = "@alice:example.org", "@bob:example.org", "@carol:example.org"


async def people(accounts: Setting) -> None:
    """Alice and Carol administer, Bob does not, Dan is gone."""
    for name in ("alice", "bob", "carol", "dan"):
        await accounts.register(name)
    await accounts.database.execute("admins", "UPDATE users SET admin = true WHERE user_id ~ 'alice|carol'")
    await accounts.database.execute("gone", "UPDATE users SET deactivated = true WHERE user_id ~ 'dan'")


@pytest.mark.parametrize("standing", ["locked", "suspended"])
async def test_locking_and_suspending(accounts: Setting, standing: Standing) -> None:
    """Takes effect at once, memory notwithstanding, and can be taken back."""
    await people(accounts)
    bob = await accounts.log_in("bob")
    assert bob.access_token is not None
    authentication = accounts.accounts.authentication
    await authentication.owner_of(bob.access_token)
    admin = actor_of(await accounts.log_in("alice"), is_admin=True)
    moderation = accounts.accounts.moderation
    for value in (True, False):
        await moderation.set_standing(admin, BOB, standing, value)
        assert await moderation.standing(admin, BOB, standing) is value
        owner = await authentication.owner_of(bob.access_token)
        assert (owner.locked, owner.suspended) == (
            value and standing == "locked",
            value and standing != "locked",
        )


@pytest.mark.parametrize(
    ("asking", "user_id", "error"),
    [
        ("bob", CAROL, Forbidden),
        ("bob", "@nobody:example.org", Forbidden),
        ("alice", CAROL, Forbidden),
        ("alice", ALICE, Forbidden),
        ("alice", "@x:elsewhere.org", InvalidParam),
        ("alice", "nonsense", InvalidParam),
        ("alice", "@nobody:example.org", NotFound),
        ("alice", "@dan:example.org", NotFound),
    ],
)
async def test_refusals(accounts: Setting, asking: str, user_id: str, error: type[MatrixError]) -> None:
    """Who is no administrator learns nothing of who exists."""
    await people(accounts)
    actor = actor_of(await accounts.log_in(asking), is_admin=asking == "alice")
    with pytest.raises(error):
        await accounts.accounts.moderation.set_standing(actor, user_id, "locked", True)
    if user_id != ALICE:
        with pytest.raises(error):
            await accounts.accounts.moderation.standing(actor, user_id, "locked")


async def test_whois_is_for_oneself_and_administrators(accounts: Setting) -> None:
    """The devices of a user."""
    await people(accounts)
    bob = await accounts.log_in("bob", device_id="PHONE")
    alice = actor_of(await accounts.log_in("alice"), is_admin=True)
    moderation = accounts.accounts.moderation
    for actor in (actor_of(bob), alice):
        assert "PHONE" in {device.device_id for device in await moderation.whois(actor, BOB)}
    with pytest.raises(Forbidden):
        await moderation.whois(actor_of(bob), ALICE)


async def test_making_administrators(accounts: Setting) -> None:
    """The last office cannot be laid down by its holder."""
    await people(accounts)
    alice = actor_of(await accounts.log_in("alice"), is_admin=True)
    moderation = accounts.accounts.moderation
    assert not await moderation.is_admin(alice, BOB)
    await moderation.set_admin(alice, BOB, True)
    assert await moderation.is_admin(alice, BOB)
    with pytest.raises(Unknown):
        await moderation.set_admin(alice, ALICE, False)
