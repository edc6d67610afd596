# SPDX-License-Identifier: Apache-2.0
"""The errors of the protocol core: what is wrong with a value, never what to answer on which transport.

::

    ProtocolError
     ├─ CanonicalJsonError           a value that canonical JSON cannot express
     ├─ IdentifierError              a string that is not the identifier it claims to be
     ├─ UnsupportedRoomVersionError  a room version this server does not implement
     ├─ EventFormatError             a PDU whose keys, types or counts break its room version's format
     │   └─ EventTooLargeError       a PDU or one of its fields over its size limit
     └─ SignatureError               a required signature that is missing, unknown or wrong

``errcode`` is the Matrix error code that names the fault where it is reported to a peer or client;
the HTTP status belongs to the web layer.
"""

from typing import ClassVar


class ProtocolError(Exception):
    """Base of every error raised by ``homeserver.protocol``."""

    errcode: ClassVar[str] = "M_UNKNOWN"


class CanonicalJsonError(ProtocolError):
    """A value that has no canonical JSON form under the rules asked for."""

    errcode = "M_BAD_JSON"


class IdentifierError(ProtocolError):
    """A string outside the grammar of the identifier it should be."""

    errcode = "M_INVALID_PARAM"


class UnsupportedRoomVersionError(ProtocolError):
    """A room version that is not in ``ROOM_VERSIONS``."""

    errcode = "M_UNSUPPORTED_ROOM_VERSION"


class EventFormatError(ProtocolError):
    """A PDU that breaks the event format of its room version."""

    errcode = "M_BAD_JSON"


class EventTooLargeError(EventFormatError):
    """A PDU, or one of its size-limited fields, that is too many bytes long."""

    errcode = "M_TOO_LARGE"


class SignatureError(ProtocolError):
    """A signature that is required and is absent, by an unknown key, or does not verify."""

    errcode = "M_FORBIDDEN"
