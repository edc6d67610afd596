# SPDX-License-Identifier: Apache-2.0
"""The grammar of X-Matrix, and that what is made is read (server-server API, "Request Authentication")."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.authentication import Credentials, authorization, parse_authorization, signed_bytes
from homeserver.errors import Unauthorized
from tests.federation.servers import make_key

PLAIN = Credentials("a.test", "b.test", "ed25519:k", "c2ln")


@pytest.mark.parametrize(
    "value",
    [
        'X-Matrix origin="a.test",destination="b.test",key="ed25519:k",sig="c2ln"',
        'X-Matrix origin=a.test,destination=b.test,key="ed25519:k",sig="c2ln"',
        "X-Matrix origin=a.test,destination=b.test,key=ed25519:k,sig=c2ln",
        'x-matrix   sig="c2ln" , \t key="ed25519:k",\tdestination="b.test" ,origin="a.test"',
        'X-MATRIX ORIGIN="a.test",Destination="b.test",KEY="ed25519:k",Sig="c2ln"',
        r'X-Matrix origin="\a.te\st",destination="b.test",key="ed25519:\k",sig="c2ln"',
        'X-Matrix origin="a.test",destination="b.test",key="ed25519:k",sig="c2ln",new="\\"x, y=\\"",other=1',
        'X-Matrix ,origin="a.test",, destination="b.test",key="ed25519:k",sig="c2ln",',
        'X-Matrix origin = "a.test",destination= "b.test",key ="ed25519:k",sig="c2ln"  ',
    ],
)
def test_every_spelling_says_the_same(value: str) -> None:
    """Case of names, order, spaces, quotes, escapes, empty elements and unknown parameters do not matter."""
    assert parse_authorization(value) == PLAIN


def test_a_header_without_destination_is_read() -> None:
    """Servers did without until v1.3."""
    read = parse_authorization('X-Matrix origin="a.test",key="ed25519:k",sig="c2ln"')
    assert read == Credentials("a.test", None, "ed25519:k", "c2ln")


@pytest.mark.parametrize("value", ["Bearer abc", "", "Basic eDp5", "X-Matrixx origin=a"])
def test_other_schemes_are_none_of_ours(value: str) -> None:
    """They are left to whom they concern."""
    if value.startswith("X-M"):
        with pytest.raises(Unauthorized):
            parse_authorization(value)
    else:
        assert parse_authorization(value) is None


@pytest.mark.parametrize(
    "value",
    [
        "X-Matrix",
        "X-Matrix ",
        'X-Matrix origin="a.test",key="ed25519:k"',
        'X-Matrix origin="",key="ed25519:k",sig="c2ln"',
        'X-Matrix origin="a.test" key="ed25519:k",sig="c2ln"',
        'X-Matrix origin="a.test",key="ed25519:k",sig="c2ln',
        'X-Matrix origin="a.test",key="ed25519:k",sig=c2/n',
        'X-Matrix origin="a.test",key="ed25519:k",sig="c2ln"x',
        'X-Matrix origin="a.test",origin="b.test",key="ed25519:k",sig="c2ln"',
        'X-Matrix origin="a.test",ORIGIN="a.test",key="ed25519:k",sig="c2ln"',
        'X-Matrix origin="a.test",key="ed25519:k",sig="c2ln\\"',
        'X-Matrix {"origin":"a.test"}',
        'X-Matrix\torigin="a.test",key="ed25519:k",sig="c2ln"',
        'X-Matrix origin="a.test",key="ed25519:k",sig="c2ln",pad="' + "x" * 5000 + '"',
    ],
)
def test_what_is_broken_is_refused(value: str) -> None:
    """Nobody guesses what was meant."""
    with pytest.raises(Unauthorized):
        parse_authorization(value)


@given(st.text(st.characters(max_codepoint=255), max_size=200))
def test_no_header_does_harm(value: str) -> None:
    """Whatever comes is read or refused, in time that grows with its length only."""
    with contextlib.suppress(Unauthorized):
        parse_authorization("X-Matrix " + value)


def test_a_long_chain_of_escapes_is_quick() -> None:
    """No pattern here goes back over what it has read."""
    with pytest.raises(Unauthorized):
        parse_authorization('X-Matrix a="' + "\\\\" * 2000)


def test_what_we_send_is_what_we_read() -> None:
    """The header of a request of ours, in the form the specification recommends for old servers."""
    key = make_key("a.test", "ed25519:k")
    value = authorization(
        origin="a.test",
        destination="b.test",
        key=key,
        method="PUT",
        target="/_matrix/federation/v1/send/1?a=%20",
        content=b'{"a":1}',
    )
    read = parse_authorization(value)
    assert read is not None
    assert value == f'X-Matrix origin="a.test",destination="b.test",key="ed25519:k",sig="{read.signature}"'
    data = (
        b'{"content":{"a":1},"destination":"b.test","method":"PUT","origin":"a.test",'
        b'"uri":"/_matrix/federation/v1/send/1?a=%20"}'
    )
    assert key.verify_key.verifies(data, read.signature)
    without = signed_bytes(origin="a.test", destination=None, method="GET", target="/", content=None)
    assert without == b'{"method":"GET","origin":"a.test","uri":"/"}'
