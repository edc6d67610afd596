# SPDX-License-Identifier: Apache-2.0
"""Names on LiveKit are the ones every client works out for itself."""

from homeserver.calls.rtc.naming import legacy_identity, livekit_identity, livekit_room


def test_the_vectors_of_the_proposal() -> None:
    """MSC4195, "Hash derivation test vectors"."""
    assert livekit_room("!roomid:example.com", "slot1234") == "O8437W3+jmzMVjoIP3tNwbm+XxHQk2iKpOA7aqw3qSc"
    assert (
        livekit_identity("@alice:example.com", "DEVICE123", "memberABC")
        == "J+T45tGruxc+HrUOqJJlyQSV33m728Cme4+vt8/SWrU"
    )


def test_parts_cannot_be_shifted_into_each_other() -> None:
    """Whatever somebody calls their slot or device, it is no other's."""
    assert livekit_identity("@a:b", "C", "D") != livekit_identity("@a:b", 'C","D', "")
    assert livekit_room("!r", "a|b") != livekit_room("!r|a", "b")


def test_the_older_form_names_user_and_device() -> None:
    assert legacy_identity("@alice:example.com", "DEVICE") == "@alice:example.com:DEVICE"
