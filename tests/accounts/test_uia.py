# SPDX-License-Identifier: Apache-2.0
"""User-interactive authentication: order, binding, single use."""

from collections.abc import Sequence

import pytest

from homeserver.accounts.uia import Flow, Operation
from homeserver.errors import Forbidden, LimitExceeded, UiaRequired
from tests.accounts.serving import PASSWORD, Setting, accounts_on, actor_of, password_auth, session_of


def operation(
    name: str = "POST something",
    user_id: str | None = None,
    flows: Sequence[Flow] = (("m.login.dummy", "m.login.terms"),),
) -> Operation:
    """Something to authorise."""
    return Operation(name=name, user_id=user_id, flows=flows, params={})


async def begin(accounts: Setting, what: Operation) -> str:
    """A session of the operation."""
    with pytest.raises(UiaRequired) as caught:
        await accounts.accounts.uia.require(what, None)
    return session_of(caught)


def dummy(session: str) -> dict[str, str]:
    """The dummy stage of a session."""
    return {"type": "m.login.dummy", "session": session}


def terms(session: str) -> dict[str, str]:
    """The terms stage of a session."""
    return {"type": "m.login.terms", "session": session}


async def test_stages_are_gone_through_in_order(accounts: Setting) -> None:
    """Each answer tells what is completed; the last lets the request through, once."""
    require, what = accounts.accounts.uia.require, operation()
    session = await begin(accounts, what)
    with pytest.raises(UiaRequired) as caught:
        await require(what, terms(session))
    assert caught.value.as_dict()["errcode"] == "M_FORBIDDEN"
    with pytest.raises(UiaRequired) as caught:
        await require(what, dummy(session))
    assert caught.value.as_dict()["completed"] == ["m.login.dummy"]
    assert "errcode" not in caught.value.as_dict()
    with pytest.raises(UiaRequired) as caught:  # a completed stage again: as if nothing had been sent
        await require(what, dummy(session))
    assert caught.value.as_dict()["completed"] == ["m.login.dummy"]
    await require(what, terms(session))
    with pytest.raises(UiaRequired) as caught:
        await require(what, {"session": session})
    assert session_of(caught) != session


async def test_a_session_serves_one_operation_and_one_user_only(accounts: Setting) -> None:
    """Completed for one thing or person, it is worth nothing for another."""
    uia = accounts.accounts.uia
    mine = operation("DELETE device A", "@alice:example.org")
    session = await begin(accounts, mine)
    with pytest.raises(UiaRequired):
        await uia.require(mine, dummy(session))
    for other in (
        operation("DELETE device B", "@alice:example.org"),
        operation("DELETE device A", "@bob:example.org"),
        operation("DELETE device A", None),
    ):
        with pytest.raises(UiaRequired) as caught:
            await uia.require(other, terms(session))
        assert session_of(caught) != session
        assert caught.value.as_dict()["completed"] == []
    await uia.require(mine, terms(session))


async def test_authentication_for_some_devices_does_not_delete_others(accounts: Setting) -> None:
    """The list of devices is part of what is authorised."""
    made = await accounts.register("alice", device_id="ONE")
    for device_id in ("TWO", "THREE"):
        await accounts.log_in("alice", device_id=device_id)
    delete, actor = accounts.accounts.own_devices.delete, actor_of(made)
    with pytest.raises(UiaRequired) as caught:
        await delete(actor, ["TWO"], None)
    session = session_of(caught)
    with pytest.raises(UiaRequired):
        await delete(actor, ["THREE"], password_auth("alice", session))
    await delete(actor, ["TWO"], password_auth("alice", session))
    left = [device.device_id for device in await accounts.accounts.own_devices.list(made.user_id)]
    assert sorted(left) == ["ONE", "THREE"]


async def test_the_password_must_be_the_requesters(accounts: Setting) -> None:
    """Somebody else's right password is refused, and a wrong one may be tried again in the same session."""
    alice, _ = await accounts.register("alice"), await accounts.register("bob")
    what = operation(user_id=alice.user_id, flows=[("m.login.password",)])
    session = await begin(accounts, what)
    for auth in (password_auth("bob", session), password_auth("alice", session, "wrong password")):
        with pytest.raises(UiaRequired) as caught:
            await accounts.accounts.uia.require(what, auth)
        assert caught.value.as_dict()["errcode"] == "M_FORBIDDEN"
        assert session_of(caught) == session
    await accounts.accounts.uia.require(what, password_auth("alice", session))


async def test_guessing_through_authentication_is_braked_too(accounts: Setting) -> None:
    """The brake is the account's, whichever door is knocked at."""
    alice = await accounts.register("alice")
    accounts.guesses.most = 2
    what = operation(user_id=alice.user_id, flows=[("m.login.password",)])
    for _ in range(2):
        with pytest.raises(UiaRequired):
            await accounts.accounts.uia.require(what, password_auth("alice", password="wrong password"))
    with pytest.raises(LimitExceeded):
        await accounts.accounts.uia.require(what, password_auth("alice"))


async def test_sessions_expire_and_are_swept(accounts: Setting) -> None:
    """What is left half-way goes by itself."""
    what = operation()
    session = await begin(accounts, what)
    accounts.clock.advance(16 * 60)
    with pytest.raises(UiaRequired) as caught:
        await accounts.accounts.uia.require(what, dummy(session))
    assert session_of(caught) != session
    await accounts.accounts.housekeeping.run()
    rows = await accounts.database.fetch("sessions", "SELECT session_id FROM uia_sessions")
    assert rows == [(session_of(caught),)]


async def test_a_stage_completed_elsewhere_counts(accounts: Setting) -> None:
    """The client comes back with nothing but its session."""
    uia, what = accounts.accounts.uia, operation(flows=[("m.login.terms",)])
    session = await begin(accounts, what)
    with pytest.raises(UiaRequired):
        await uia.require(what, {"session": session})
    await uia.complete_elsewhere(session, "m.login.terms", {})
    await uia.require(what, {"session": session})
    with pytest.raises(Forbidden):
        await uia.complete_elsewhere(session, "m.login.terms", {})


async def test_nobody_tries_out_the_passwords_of_others(accounts: Setting) -> None:
    """The answer for another user's right password is that for a wrong one, and neither is looked at."""
    alice = await accounts.register("alice")
    await accounts.register("bob")
    what = operation(user_id=alice.user_id, flows=[("m.login.password",)])
    answers = []
    for password in (PASSWORD, "wrong password"):
        with pytest.raises(UiaRequired) as caught:
            await accounts.accounts.uia.require(what, password_auth("bob", password=password))
        answers.append(caught.value.as_dict()["error"])
    assert answers[0] == answers[1]
    assert not accounts.guesses.failures
    await accounts.accounts.uia.require(what, password_auth("Alice"))


async def test_the_next_request_may_reach_another_process(accounts: Setting) -> None:
    """Sessions are in the database."""
    what = operation(flows=[("m.login.dummy",)])
    session = await begin(accounts, what)
    with accounts_on(accounts.database, clock=accounts.clock) as other:
        await other.accounts.uia.require(what, dummy(session))
