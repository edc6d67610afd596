# SPDX-License-Identifier: Apache-2.0
"""What a service refuses, and why: the errors a peer or client is told about.

Owns the Matrix error codes this server answers with and the data each carries. Does not own HTTP: the status of
each code is mapped once, in `homeserver.web.statuses`, and an endpoint whose specification deviates says so
in its `Route`.

A service raises the class that names the refusal: `raise Forbidden("You are not in the room")`. Further fields of
the error object are keyword arguments, `**{"org.example.key": …}` where the name has dots.

::

    MatrixError                           M_UNKNOWN, an internal failure: answered without its message
     ├─ Unknown                           M_UNKNOWN, the request's fault, told
     │   └─ RemoteServerFailed            not the request's fault: another server could not be asked, or failed
     │       └─ RemoteTooLarge            M_TOO_LARGE
     ├─ RefusedElsewhere(status, errcode) what another server said, passed on as it said it
     ├─ Unrecognized                      M_UNRECOGNIZED
     ├─ BadRequest                        what was sent makes no sense
     │   ├─ NotJson  BadJson  InvalidParam  MissingParam  TooLarge  UnknownPos
     │   ├─ InvalidUsername  WeakPassword  InvalidRoomState  BadAlias  DuplicateAnnotation
     │   ├─ UnsupportedRoomVersion  IncompatibleRoomVersion(room_version)
     │   ├─ UnableToAuthoriseJoin  UnableToGrantJoin
     │   ├─ InvalidSignature  KeyTooLarge  ProfileTooLarge  UnknownDevice
     │   └─ ServerNotTrusted  AppserviceLoginUnsupported
     ├─ InUse                             what was asked for has another owner
     │   └─ UserInUse  RoomInUse  Exclusive  CannotOverwriteMedia
     ├─ Unauthenticated                   who asks is not known, or no longer welcome
     │   ├─ MissingToken  UnknownToken(soft_logout)  UserLocked(soft_logout: true)  Unauthorized
     │   └─ UiaRequired                   flows, params, session, completed; with a reason after a failed stage
     ├─ Forbidden                         M_FORBIDDEN, and what is forbidden for a nameable reason
     │   ├─ GuestAccessForbidden  UserDeactivated  UserSuspended  BadState  InviteBlocked
     │   ├─ CannotLeaveServerNoticeRoom  WrongRoomKeysVersion(current_version)
     │   ├─ CaptchaNeeded  CaptchaInvalid
     │   └─ ResourceLimitExceeded(admin_contact)  UserLimitExceeded(info_uri, can_upgrade)
     ├─ NotFound                          M_NOT_FOUND
     │   └─ ThreepidNotFound  NotYetUploaded
     ├─ ThreepidRefused                   third-party identifiers
     │   └─ ThreepidDenied  ThreepidInUse  ThreepidAuthFailed  ThreepidMediumNotSupported
     ├─ LimitExceeded(retry_after_ms)     M_LIMIT_EXCEEDED
     └─ AppserviceUnreachable             the application service did not answer a ping
         └─ UrlNotSet  ConnectionFailed  ConnectionTimeout  BadStatus(status, body)

Codes: client-server API, "Standard error response" and the sections of the endpoints that raise them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class MatrixError(Exception):
    """Base of all. `errcode` and `message` become the error object, `fields` its further keys."""

    errcode: ClassVar[str] = "M_UNKNOWN"
    default_message: ClassVar[str] = "Unknown error"

    def __init__(self, message: str | None = None, **fields: object) -> None:
        self.message = self.default_message if message is None else message
        self.fields: dict[str, object] = fields
        super().__init__(self.message)

    def as_dict(self) -> dict[str, object]:
        """The error object: `errcode`, `error` and the further fields."""
        return {"errcode": self.errcode, "error": self.message, **self.fields}


class Unknown(MatrixError):
    """M_UNKNOWN: the request is at fault and no code says how."""


class RemoteServerFailed(Unknown):
    """M_UNKNOWN, answered with 502: a server without which it cannot be done is down, or does not make sense."""

    default_message = "The other server could not be reached"


class RemoteTooLarge(RemoteServerFailed):
    """M_TOO_LARGE, answered with 502: what another server holds is larger than this one passes on."""

    errcode = "M_TOO_LARGE"
    default_message = "The content is too large"


class RefusedElsewhere(MatrixError):
    """A server that decides about it refuses, and what it answered is the answer: status, code and message.

    As a code within this server it counts as M_FORBIDDEN.
    """

    errcode = "M_FORBIDDEN"

    def __init__(self, status: int, errcode: str, message: str, **fields: object) -> None:
        super().__init__(message, **fields)
        self.status = status
        self.told_errcode = errcode

    def as_dict(self) -> dict[str, object]:
        """The other server's error object."""
        return {**super().as_dict(), "errcode": self.told_errcode}


class Unrecognized(MatrixError):
    """M_UNRECOGNIZED: no such endpoint, or not with that method."""

    errcode = "M_UNRECOGNIZED"
    default_message = "Unrecognized request"


class BadRequest(MatrixError):
    """Base of what is wrong with the request itself."""


class NotJson(BadRequest):
    """M_NOT_JSON: the body does not parse."""

    errcode = "M_NOT_JSON"
    default_message = "The request body is not valid JSON"


class BadJson(BadRequest):
    """M_BAD_JSON: the body parses, but keys are missing or have wrong values."""

    errcode = "M_BAD_JSON"
    default_message = "The request body is malformed"


class InvalidParam(BadRequest):
    """M_INVALID_PARAM: a parameter has a wrong value."""

    errcode = "M_INVALID_PARAM"
    default_message = "A parameter has a wrong value"


class MissingParam(BadRequest):
    """M_MISSING_PARAM: a required parameter is missing."""

    errcode = "M_MISSING_PARAM"
    default_message = "A required parameter is missing"


class TooLarge(BadRequest):
    """M_TOO_LARGE: the request or what it would make is over a size limit."""

    errcode = "M_TOO_LARGE"
    default_message = "The request is too large"


class UnknownPos(BadRequest):
    """M_UNKNOWN_POS: a sliding sync position this server no longer knows (MSC4186)."""

    errcode = "M_UNKNOWN_POS"
    default_message = "Unknown position"


class InvalidUsername(BadRequest):
    """M_INVALID_USERNAME: the user id asked for breaks the grammar."""

    errcode = "M_INVALID_USERNAME"
    default_message = "That user id is not valid"


class WeakPassword(BadRequest):
    """M_WEAK_PASSWORD: the new password is refused."""

    errcode = "M_WEAK_PASSWORD"
    default_message = "The password is too weak"


class InvalidRoomState(BadRequest):
    """M_INVALID_ROOM_STATE: createRoom was given a state that cannot be."""

    errcode = "M_INVALID_ROOM_STATE"
    default_message = "The initial state is not valid"


class BadAlias(BadRequest):
    """M_BAD_ALIAS: m.room.canonical_alias names an alias that does not point to the room."""

    errcode = "M_BAD_ALIAS"
    default_message = "The alias does not point to this room"


class DuplicateAnnotation(BadRequest):
    """M_DUPLICATE_ANNOTATION: the user already reacted so to that event."""

    errcode = "M_DUPLICATE_ANNOTATION"
    default_message = "You already sent that reaction"


class UnsupportedRoomVersion(BadRequest):
    """M_UNSUPPORTED_ROOM_VERSION: a room shall be made in a version unknown here."""

    errcode = "M_UNSUPPORTED_ROOM_VERSION"
    default_message = "This server does not support that room version"


class IncompatibleRoomVersion(BadRequest):
    """M_INCOMPATIBLE_ROOM_VERSION: an existing room has a version unknown here."""

    errcode = "M_INCOMPATIBLE_ROOM_VERSION"
    default_message = "The room's version is not supported"

    def __init__(self, room_version: str, message: str | None = None) -> None:
        super().__init__(message, room_version=room_version)


class UnableToAuthoriseJoin(BadRequest):
    """M_UNABLE_TO_AUTHORISE_JOIN: the conditions of a restricted room cannot be checked here."""

    errcode = "M_UNABLE_TO_AUTHORISE_JOIN"
    default_message = "This server cannot check the conditions for joining"


class UnableToGrantJoin(BadRequest):
    """M_UNABLE_TO_GRANT_JOIN: they are met, but nobody here has the power to let the user in."""

    errcode = "M_UNABLE_TO_GRANT_JOIN"
    default_message = "Nobody on this server may let you into the room"


class InvalidSignature(BadRequest):
    """M_INVALID_SIGNATURE: an uploaded key or signature does not verify."""

    errcode = "M_INVALID_SIGNATURE"
    default_message = "The signature does not verify"


class KeyTooLarge(BadRequest):
    """M_KEY_TOO_LARGE: a profile field's name is over 255 bytes."""

    errcode = "M_KEY_TOO_LARGE"
    default_message = "The field's name is too long"


class ProfileTooLarge(BadRequest):
    """M_PROFILE_TOO_LARGE: the profile would be over 64 KiB."""

    errcode = "M_PROFILE_TOO_LARGE"
    default_message = "The profile would be too large"


class UnknownDevice(BadRequest):
    """M_UNKNOWN_DEVICE: an application service asserted a device its user does not have."""

    errcode = "M_UNKNOWN_DEVICE"
    default_message = "The user has no such device"


class ServerNotTrusted(BadRequest):
    """M_SERVER_NOT_TRUSTED: a third-party server this server does not trust."""

    errcode = "M_SERVER_NOT_TRUSTED"
    default_message = "That server is not trusted"


class AppserviceLoginUnsupported(BadRequest):
    """M_APPSERVICE_LOGIN_UNSUPPORTED: application services' users do not log in here (MSC4190)."""

    errcode = "M_APPSERVICE_LOGIN_UNSUPPORTED"
    default_message = "Application services cannot log in here"


class InUse(MatrixError):
    """Base of names that have another owner."""


class UserInUse(InUse):
    """M_USER_IN_USE."""

    errcode = "M_USER_IN_USE"
    default_message = "That user id is taken"


class RoomInUse(InUse):
    """M_ROOM_IN_USE: the alias given to createRoom."""

    errcode = "M_ROOM_IN_USE"
    default_message = "That alias is taken"


class Exclusive(InUse):
    """M_EXCLUSIVE: reserved by an application service, or not by the one that asks."""

    errcode = "M_EXCLUSIVE"
    default_message = "That name is reserved by an application service"


class CannotOverwriteMedia(InUse):
    """M_CANNOT_OVERWRITE_MEDIA: the reserved media id already has content."""

    errcode = "M_CANNOT_OVERWRITE_MEDIA"
    default_message = "There is media under that id already"


class Unauthenticated(MatrixError):
    """Base of what ends in a new log-in."""


class MissingToken(Unauthenticated):
    """M_MISSING_TOKEN."""

    errcode = "M_MISSING_TOKEN"
    default_message = "Missing access token"


class UnknownToken(Unauthenticated):
    """M_UNKNOWN_TOKEN; with `soft_logout` the client keeps its keys and logs in again as the same device."""

    errcode = "M_UNKNOWN_TOKEN"
    default_message = "Unknown access token"

    def __init__(self, message: str | None = None, *, soft_logout: bool = False) -> None:
        super().__init__(message, soft_logout=soft_logout)


class UserLocked(Unauthenticated):
    """M_USER_LOCKED: a locked account; always with soft_logout, so that nothing is lost when it is unlocked."""

    errcode = "M_USER_LOCKED"
    default_message = "This account has been locked"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message, soft_logout=True)


class Unauthorized(Unauthenticated):
    """M_UNAUTHORIZED: the request's signature or proof is wrong."""

    errcode = "M_UNAUTHORIZED"
    default_message = "Not authorised"


class UiaRequired(Unauthenticated):
    """User-interactive authentication is not finished (client-server API, "User-interactive API").

    The error object has no `errcode` unless a stage just failed: then `reason` gives it and `error`.
    """

    def __init__(
        self,
        *,
        flows: Sequence[Mapping[str, Sequence[str]]],
        params: Mapping[str, Any],
        session: str,
        completed: Sequence[str] = (),
        reason: MatrixError | None = None,
    ) -> None:
        super().__init__(
            None if reason is None else reason.message,
            flows=list(flows),
            params=dict(params),
            session=session,
            completed=list(completed),
        )
        self.reason = reason

    def as_dict(self) -> dict[str, object]:
        return self.fields if self.reason is None else {**self.reason.as_dict(), **self.fields}


class Forbidden(MatrixError):
    """M_FORBIDDEN: known, understood and refused."""

    errcode = "M_FORBIDDEN"
    default_message = "Forbidden"


class GuestAccessForbidden(Forbidden):
    """M_GUEST_ACCESS_FORBIDDEN."""

    errcode = "M_GUEST_ACCESS_FORBIDDEN"
    default_message = "Guests may not do that"


class UserDeactivated(Forbidden):
    """M_USER_DEACTIVATED."""

    errcode = "M_USER_DEACTIVATED"
    default_message = "This account has been deactivated"


class UserSuspended(Forbidden):
    """M_USER_SUSPENDED."""

    errcode = "M_USER_SUSPENDED"
    default_message = "This account has been suspended"


class BadState(Forbidden):
    """M_BAD_STATE: unbanning whom nobody banned, and the like."""

    errcode = "M_BAD_STATE"
    default_message = "That change cannot be made"


class InviteBlocked(Forbidden):
    """M_INVITE_BLOCKED: the invited user takes no invites from there."""

    errcode = "M_INVITE_BLOCKED"
    default_message = "The user does not accept your invite"


class CannotLeaveServerNoticeRoom(Forbidden):
    """M_CANNOT_LEAVE_SERVER_NOTICE_ROOM."""

    errcode = "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM"
    default_message = "You cannot reject this invite"


class WrongRoomKeysVersion(Forbidden):
    """M_WRONG_ROOM_KEYS_VERSION: not the newest key backup."""

    errcode = "M_WRONG_ROOM_KEYS_VERSION"
    default_message = "Wrong backup version"

    def __init__(self, current_version: str, message: str | None = None) -> None:
        super().__init__(message, current_version=current_version)


class CaptchaNeeded(Forbidden):
    """M_CAPTCHA_NEEDED."""

    errcode = "M_CAPTCHA_NEEDED"
    default_message = "A captcha is required"


class CaptchaInvalid(Forbidden):
    """M_CAPTCHA_INVALID."""

    errcode = "M_CAPTCHA_INVALID"
    default_message = "The captcha does not match"


class ResourceLimitExceeded(Forbidden):
    """M_RESOURCE_LIMIT_EXCEEDED: a limit of the whole server."""

    errcode = "M_RESOURCE_LIMIT_EXCEEDED"
    default_message = "This server has reached a limit"

    def __init__(self, admin_contact: str, message: str | None = None, **fields: object) -> None:
        super().__init__(message, admin_contact=admin_contact, **fields)


class UserLimitExceeded(Forbidden):
    """M_USER_LIMIT_EXCEEDED: a limit of the account."""

    errcode = "M_USER_LIMIT_EXCEEDED"
    default_message = "You have reached a limit of your account"

    def __init__(self, info_uri: str, message: str | None = None, *, can_upgrade: bool = False) -> None:
        super().__init__(message, info_uri=info_uri, can_upgrade=can_upgrade)


class NotFound(MatrixError):
    """M_NOT_FOUND: the endpoint is there, the thing is not."""

    errcode = "M_NOT_FOUND"
    default_message = "Not found"


class NotYetUploaded(NotFound):
    """M_NOT_YET_UPLOADED, answered with 504: the upload was announced and has not come yet."""

    errcode = "M_NOT_YET_UPLOADED"
    default_message = "Content has not yet been uploaded"


class ThreepidNotFound(NotFound):
    """M_THREEPID_NOT_FOUND."""

    errcode = "M_THREEPID_NOT_FOUND"
    default_message = "No account has that address"


class ThreepidRefused(MatrixError):
    """Base of what is wrong with a third-party identifier."""


class ThreepidDenied(ThreepidRefused):
    """M_THREEPID_DENIED."""

    errcode = "M_THREEPID_DENIED"
    default_message = "That address is not allowed here"


class ThreepidInUse(ThreepidRefused):
    """M_THREEPID_IN_USE."""

    errcode = "M_THREEPID_IN_USE"
    default_message = "That address is in use"


class ThreepidAuthFailed(ThreepidRefused):
    """M_THREEPID_AUTH_FAILED."""

    errcode = "M_THREEPID_AUTH_FAILED"
    default_message = "The address could not be verified"


class ThreepidMediumNotSupported(ThreepidRefused):
    """M_THREEPID_MEDIUM_NOT_SUPPORTED."""

    errcode = "M_THREEPID_MEDIUM_NOT_SUPPORTED"
    default_message = "Addresses of that kind cannot be added"


class LimitExceeded(MatrixError):
    """M_LIMIT_EXCEEDED: after `retry_after_ms` milliseconds the same request would pass."""

    errcode = "M_LIMIT_EXCEEDED"
    default_message = "Too many requests"

    def __init__(self, retry_after_ms: int, message: str | None = None) -> None:
        super().__init__(message, retry_after_ms=retry_after_ms)
        self.retry_after_ms = retry_after_ms


class AppserviceUnreachable(MatrixError):
    """Base of the failures of an application service's ping (client-server API, "Pinging application services")."""


class UrlNotSet(AppserviceUnreachable):
    """M_URL_NOT_SET."""

    errcode = "M_URL_NOT_SET"
    default_message = "The application service has no URL"


class ConnectionFailed(AppserviceUnreachable):
    """M_CONNECTION_FAILED."""

    errcode = "M_CONNECTION_FAILED"
    default_message = "The application service cannot be reached"


class ConnectionTimeout(AppserviceUnreachable):
    """M_CONNECTION_TIMEOUT."""

    errcode = "M_CONNECTION_TIMEOUT"
    default_message = "The application service did not answer in time"


class BadStatus(AppserviceUnreachable):
    """M_BAD_STATUS: it answered `status` with `body`."""

    errcode = "M_BAD_STATUS"
    default_message = "The application service answered with an error"

    def __init__(self, status: int, body: str, message: str | None = None) -> None:
        super().__init__(message, status=status, body=body)
