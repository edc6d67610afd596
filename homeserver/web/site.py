# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802 (Twisted's names)
"""From a complete request to its reply: the order of the checks, the handler, errors, logs and figures.

Owns the steps every request takes:

1. OPTIONS is answered without looking further;
2. no route: 404 or 405 M_UNRECOGNIZED;
3. while there is too much to do, a turn is waited for, or the request refused (`admission.py`);
4. where other processes have told what was not heard here yet, it is waited for (`hearing.py`);
5. authentication and the route's policy on guests, locked and suspended accounts;
6. the rate limit of the route's class, by user, by server, or by address where nobody is known;
7. the handler;
8. its reply or error becomes a response, a line in the access log and an observation.

A failure that is not a refusal is logged with the request's id and answered 500 M_UNKNOWN, saying nothing of itself;
503 where the database could not be had, or gave up on a statement, so that nothing was done.
"""

import itertools
import logging
import secrets
from collections.abc import Coroutine, Generator
from email.utils import formatdate
from typing import Any, Final

import orjson
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ServerFactory
from twisted.python.failure import Failure

from homeserver.errors import (
    LimitExceeded,
    MatrixError,
    MissingToken,
    Unrecognized,
)
from homeserver.observability.access_log import AccessLog
from homeserver.observability.context import request_id
from homeserver.observability.metrics import HttpMetrics
from homeserver.protocol.errors import ProtocolError
from homeserver.spooling import Spool, SpoolRoom
from homeserver.web import compression, files
from homeserver.web.addresses import ProxyTrust
from homeserver.web.admission import Admission, Entry
from homeserver.web.authentication import Authenticator, Requester, ServerAuthenticator
from homeserver.web.channel import Channel, Timeouts
from homeserver.web.clock import Clock
from homeserver.web.crowding import Crowding, giving_way, shed
from homeserver.web.door import Doorway
from homeserver.web.exchange import BUSY_MS, COMMON, JSON_HEAD, Exchange
from homeserver.web.hearing import Hearing, NoOthers
from homeserver.web.kinds import Kind, is_long_poll
from homeserver.web.putting_off import NOT_DONE, busy, retry_after, unavailable
from homeserver.web.query import Query
from homeserver.web.rate_limits import RateLimits
from homeserver.web.refusals import check_policy, refusal_of
from homeserver.web.replies import JSON, FileReply, JsonBytes, Reply, Response, Upgrade
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Match, Route, Router
from homeserver.web.senders import Sender
from homeserver.web.signals import Signal
from homeserver.web.upgrades import WEBSOCKET_VERSION, handshake_problem, request_head

log = logging.getLogger(__name__)

#: Logged where there was nobody left to answer, as other servers do.
_CLIENT_GONE: Final = 499
#: Bytes of a client's request body; where nobody is logged in, and otherwise. To parse the largest body of a server's
#: transaction can take a good part of a second, if it is made for that.
_ANONYMOUS_BODY: Final = 64 * 1024
_CLIENT_BODY: Final = 2 * 1024 * 1024
#: Bytes of a body that cost as much as a request whose signature does not hold.
_UNPROVEN_BYTES: Final = 256 * 1024
#: Bytes of all request bodies held at once.
MOST_BUFFERED: Final = 256 * 1024 * 1024
#: One part of how many of it is made free at once.
_ROOM: Final = 8
_INTERNAL: Final = orjson.dumps({"errcode": "M_UNKNOWN", "error": "Internal server error"})


class Site(ServerFactory):
    """Answers the connections of one listener."""

    noisy = False

    def __init__(
        self,
        *,
        clock: Clock,
        router: Router,
        authenticator: Authenticator,
        server_authenticator: ServerAuthenticator | None,
        limits: RateLimits,
        metrics: HttpMetrics,
        access_log: AccessLog,
        shutting_down: Signal,
        trust: ProxyTrust,
        max_body: int,
        timeouts: Timeouts,
        max_connections: int,
        spools: SpoolRoom | None = None,
        secure: bool = False,
        hearing: Hearing | None = None,
        admission: Admission | None = None,
    ) -> None:
        """`spools`: None where no route spools its bodies. `hearing`: what to wait for before a request is served.
        `admission`: who has a turn while there is too much to do; None: everybody."""
        self.clock = clock
        self.router = router
        self.timeouts = timeouts
        self.connections: set[Channel] = set()
        self.buffered = 0
        """Bytes of request bodies that are held."""
        self.running: set[Exchange] = set()
        self._authenticator = authenticator
        self._server_authenticator = server_authenticator
        self._limits = limits
        self._metrics = metrics
        self._access_log = access_log
        self._shutting_down = shutting_down
        self._trust = trust
        self._max_body = max_body
        self._crowding = Crowding(trust, max_connections)
        self._spools = spools
        self._secure = secure
        self._hearing = NoOthers() if hearing is None else hearing
        self._admission = Admission(clock) if admission is None else admission
        self._doorway = Doorway(self._admission, self._sender, self._begin, self._refuse)
        self._ids = itertools.count(1)
        self._id_prefix = secrets.token_hex(3)
        self._second = -1
        self._date = b""
        self._json_head = b""
        self._look_call: Any = None

    def buildProtocol(self, addr: object) -> Channel | None:
        """None, which closes the connection, when there are too many, of all or of one address."""
        host = getattr(addr, "host", "")
        if self._shutting_down.fired or not self._crowding.has_room(host, len(self.connections)):
            return None
        return Channel(self)

    # Called by channels

    def opened(self, channel: Channel) -> None:
        """A connection is here."""
        self.connections.add(channel)
        self._crowding.came(channel.peer)
        if self._look_call is None:
            self._look_call = self.clock.callLater(self.timeouts.look, self._look)

    def closed(self, channel: Channel) -> None:
        """It is gone."""
        self.connections.discard(channel)
        self._crowding.left(channel.peer)
        if not self.connections and self._look_call is not None:
            self._look_call.cancel()
            self._look_call = None

    def _look(self) -> None:
        """At the deadlines of all connections, and at what they do not read."""
        self._look_call = self.clock.callLater(self.timeouts.look, self._look)
        shed(self.connections)
        now = self.clock.seconds()
        for channel in [channel for channel in self.connections if now >= channel.deadline]:
            channel.overdue(now)

    # Called by exchanges

    def date_line(self) -> bytes:
        """The Date header of this second."""
        self._begin_second(int(self.clock.seconds()))
        return self._date

    def answer(self, exchange: Exchange) -> None:
        """Answer a complete request, now or later."""
        exchange.id = self._new_id()
        match = exchange.match
        if exchange.method == "OPTIONS":
            self._finish(exchange, 204, b"", {})
        elif match is None:
            self._unmatched(exchange)
        elif not self._admission.busy or self._doorway.ask(exchange):
            self._begin(exchange, None)

    def _start(self, exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
        """Go as far as it goes without waiting, which for most requests is to their end: what a Deferred and a context
        of its own cost is for those that wait."""
        token = request_id.set(exchange.id)
        try:
            waits_for = work.send(None)
        except StopIteration:
            return
        except Exception as error:
            _log_broken(error)
        else:
            going_on = Deferred.fromCoroutine(_go_on(work, waits_for))
            exchange.runs(going_on)
            going_on.addErrback(_log_failure)
        finally:
            request_id.reset(token)

    def body_limit(self, route: Route) -> int:
        """Bytes that a request to the route may bring."""
        if route.max_body is not None:
            return route.max_body
        if route.resource not in {"client", "admin"} and route.auth is not Auth.NONE:
            return self._max_body
        return min(self._max_body, _ANONYMOUS_BODY if route.auth is Auth.NONE else _CLIENT_BODY)

    def may_buffer(self, exchange: Exchange, count: int) -> bool:
        """Take so many bytes into account, unless that would be more than all requests together may bring."""
        if self.buffered + count > MOST_BUFFERED:
            self._make_room()
            if exchange.responded or self.buffered + count > MOST_BUFFERED:
                return False
        self.buffered += count
        return True

    def _make_room(self) -> None:
        arriving = [
            (self._sender(exchange).address, exchange)
            for channel in self.connections
            if (exchange := channel.exchange)
            and exchange.received
            and not exchange.complete
            and exchange.spool is None
        ]
        for exchange in giving_way(arriving, MOST_BUFFERED // _ROOM):
            exchange.refuse(429, LimitExceeded(BUSY_MS, "The server is busy with other requests' bodies"))

    def open_spool(self, most: int) -> Spool:
        """Where a body of at most `most` bytes goes. Raises OSError."""
        assert self._spools is not None, "a route spools its bodies, and there is no room for them"
        return self._spools.open(most)

    def admit(self, exchange: Exchange, channel: Channel) -> None:
        """Find out who sends a large body before it is read; unless it would be read in vain."""
        if self._admission.busy and self._admission.is_crowded(Kind.HEAVY):
            exchange.refuse(429, LimitExceeded(BUSY_MS, "The server is busy"))
            return
        channel.hold_body()
        self._start(exchange, self._admit(exchange, channel))

    def goes_on_for(self, exchange: Exchange) -> bool:
        """Whether a request is answered whose client sends no more, and may well be gone.

        Not if it waits for news, of which clients close any number; nor, while there is too much to do, if it waits for
        its turn or may be given up: most of those are gone.
        """
        match = exchange.match
        if match is None or exchange not in self.running or (self._admission.busy and match.route.abandon):
            return False
        return not is_long_poll(match.route, Query(exchange.query))

    def refused(self, exchange: Exchange, status: int) -> None:
        """A request was refused before it was complete."""
        exchange.id = self._new_id()
        self._record(exchange, status, self.clock.seconds())

    def _new_id(self) -> str:
        return f"{self._id_prefix}-{next(self._ids)}"

    # Steps

    def _begin(self, exchange: Exchange, entry: Entry | None) -> None:
        assert exchange.match is not None
        self.running.add(exchange)
        self._metrics.in_flight += 1
        self._start(exchange, self._run(exchange, exchange.match, entry))

    def _refuse(self, exchange: Exchange, error: LimitExceeded) -> None:
        """There is too much to do; or the client left before its turn. Not a line in the log for each: see metrics."""
        assert exchange.match is not None
        if exchange.spool is not None:
            exchange.spool.discard()
        if exchange.channel is None or self._shutting_down.fired:
            self._fail(exchange, exchange.match.route, error)
            return
        now = self.clock.seconds()
        self._metrics.observe(exchange.label, exchange.method, 429, now - exchange.started)
        exchange.respond(exchange.response(429, *busy(error.retry_after_ms)), now)

    async def _run(self, exchange: Exchange, match: Match, entry: Entry | None) -> None:
        route = match.route
        try:
            request = self._request(exchange, match)
            if self._hearing.has_others and self._hearing.behind():
                await self._hearing.catch_up()
            if route.auth is Auth.SERVER:
                await self._authenticate_server(exchange, request)
            elif route.auth is not Auth.NONE:
                token = self._token(exchange, route)
                if token is not None:
                    requester = await self._authenticator.authenticate(token, request)
                    _accept(exchange, request, requester)
            self._count(route, request)
            reply = await route.handler(request)
            if type(reply) is JsonBytes:
                body = reply.encoded
            elif type(reply) is dict:
                body = orjson.dumps(reply)
            else:
                if entry is not None and isinstance(reply, FileReply):
                    # From here on it goes as slowly as its client reads, who keeps nobody waiting by that.
                    self._admission.done(entry)
                    entry = None
                await self._send(exchange, reply)
                return
            if len(body) < compression.SMALLEST:
                self._answer_json(exchange, body)
            else:
                await self._send_json(exchange, body)
        except Exception as error:
            self._fail(exchange, route, error)
        finally:
            if exchange.spool is not None:
                exchange.spool.discard()
            self.running.discard(exchange)
            self._metrics.in_flight -= 1
            if entry is not None:
                self._admission.done(entry)

    async def _admit(self, exchange: Exchange, channel: Channel) -> None:
        """Refuse the sender here; what is complete by now is judged, and answered, as every request."""
        assert exchange.match is not None
        route = exchange.match.route
        try:
            request = self._request(exchange, exchange.match)
            token = self._token(exchange, route)
            if token is not None:
                _accept(exchange, request, await self._authenticator.authenticate(token, request))
                exchange.spool_of(request.requester.user_id)
        except Exception as error:
            refusal = refusal_of(route, error)
            if refusal is None:
                raise
            if not exchange.complete and isinstance(error, MatrixError):
                exchange.refuse(refusal[0], error)
        finally:
            channel.go_on_with_body(exchange)

    def _count(self, route: Route, request: MatrixRequest) -> None:
        """Raises LimitExceeded."""
        requester = request.requester_or_none
        if requester is not None:
            if requester.rate_limited:
                self._limits.check(route.counted_as, requester.user_id)
        elif request.origin_or_none is not None:
            self._limits.check(route.counted_as, request.origin_or_none)
        else:
            self._limits.check(route.counted_as, request.counted_as)

    async def _authenticate_server(self, exchange: Exchange, request: MatrixRequest) -> None:
        """Until the signature was checked anyone may say anything: what does not hold is paid for by the address.

        The more so the larger the body, which had to be parsed and encoded to find out.
        """
        assert self._server_authenticator is not None, "not mounted without federation"
        address = request.counted_as
        self._limits.peek("server_unproven", address)
        self._limits.check("server_address", address)
        size = len(request.content)
        try:
            origin = await self._server_authenticator.authenticate(request)
        except (MatrixError, ProtocolError) as error:
            if not isinstance(error, LimitExceeded):
                self._limits.take("server_unproven", address, 1 + size / _UNPROVEN_BYTES)
            raise
        exchange.user = request.origin_or_none = origin
        if self._admission.busy:
            self._doorway.proved(address, origin)

    def _request(self, exchange: Exchange, match: Match) -> MatrixRequest:
        return MatrixRequest(
            exchange, self._sender(exchange), match, exchange.take_body(), self._shutting_down
        )

    def _sender(self, exchange: Exchange) -> Sender:
        fields = exchange.fields
        sender = fields.sender
        if sender is None:
            assert exchange.channel is not None
            peer = exchange.channel.peer
            sender = fields.sender = Sender(fields, peer, self._trust, secure=self._secure)
        return sender

    def _token(self, exchange: Exchange, route: Route) -> str | None:
        """The access token; None where there is none and none is needed. Raises MissingToken, and as Sender."""
        token = self._sender(exchange).token_beside(exchange.query)
        if token is None and route.auth is not Auth.OPTIONAL:
            raise MissingToken
        return token

    async def _send_json(self, exchange: Exchange, body: bytes) -> None:
        """200 with JSON that is compressed if that is worth it."""
        if compression.worth_it(body, None, exchange.fields):
            body = await compression.compress(body)
            self._finish(exchange, 200, body, compression.headers_of(None))
        else:
            self._answer_json(exchange, body)

    def _answer_json(self, exchange: Exchange, body: bytes) -> None:
        """200 with JSON, as nearly every request is answered."""
        channel = exchange.channel
        if (
            channel is None
            or not channel.persistent
            or exchange.method == "HEAD"
            or self._shutting_down.fired
        ):
            self._finish(exchange, 200, body, None)
            return
        now = self.clock.seconds()
        self._begin_second(int(now))
        self._record(exchange, 200, now)
        exchange.respond(b"%b%d\r\n\r\n%b" % (self._json_head, len(body), body), now)

    def _begin_second(self, second: int) -> None:
        """Make what is the same in all responses of a second."""
        if second != self._second:
            self._second = second
            self._date = f"Date: {formatdate(second, usegmt=True)}\r\n".encode("ascii")
            self._json_head = b"HTTP/1.1 200 OK\r\n" + self._date + COMMON + JSON_HEAD

    async def _send(self, exchange: Exchange, reply: Reply) -> None:
        if isinstance(reply, Upgrade):
            self._upgrade(exchange, reply)
            return
        if isinstance(reply, FileReply):
            await self._send_file(exchange, reply)
            return
        if not isinstance(reply, Response):
            await self._send_json(exchange, orjson.dumps(reply))
            return
        body, headers = reply.body, dict(reply.headers)
        if headers.get("Content-Type") == JSON:
            headers.setdefault("Cache-Control", "no-store")
        if compression.worth_it(body, headers, exchange.fields):
            body = await compression.compress(body)
            headers = compression.headers_of(headers)
        self._finish(exchange, reply.status, body, headers)

    async def _send_file(self, exchange: Exchange, reply: FileReply) -> None:
        asked = exchange.fields
        part = files.part_of(
            reply,
            files.header(asked, b"range"),
            files.header(asked, b"if-none-match"),
            files.header(asked, b"if-range"),
        )
        if part.status not in {200, 206} or exchange.channel is None:
            self._finish(exchange, part.status, b"", dict(part.headers))
            return
        length = part.length + len(reply.before) + len(reply.after)
        if exchange.method == "HEAD":
            head, now = exchange.head(part.status, length, part.headers), self.clock.seconds()
            self._record(exchange, part.status, now)
            exchange.respond(head, now)
            return
        file = await files.open_at(reply.path, part.start)
        if self._shutting_down.fired and exchange.channel is not None:
            exchange.channel.persistent = False
        await exchange.stream(part, reply, file)
        self._record(exchange, _CLIENT_GONE if exchange.gone else part.status, self.clock.seconds())

    def _upgrade(self, exchange: Exchange, reply: Upgrade) -> None:
        problem = handshake_problem(exchange.method, exchange.fields, is_newest=exchange.is_newest)
        if exchange.channel is not None and problem is not None:
            headers = {
                "Content-Type": JSON,
                "Cache-Control": "no-store",
                "Upgrade": "websocket",
                "Sec-WebSocket-Version": WEBSOCKET_VERSION,
            }
            self._finish(exchange, 426, orjson.dumps(Unrecognized(problem).as_dict()), headers)
            return
        channel = exchange.hand_over()
        self._record(exchange, _CLIENT_GONE if channel is None else 101, self.clock.seconds())
        if channel is not None:
            channel.hand_over(reply.build, request_head(exchange.method, exchange.target, exchange.fields))

    # Failures

    def _unmatched(self, exchange: Exchange) -> None:
        if exchange.allowed:
            body = orjson.dumps(Unrecognized("Unrecognized request method").as_dict())
            headers = {"Content-Type": JSON, "Cache-Control": "no-store"}
            headers["Allow"] = ", ".join(exchange.allowed)
            self._finish(exchange, 405, body, headers)
        elif exchange.invalid is not None:
            self._finish(exchange, 400, orjson.dumps(exchange.invalid), None)
        else:
            self._finish(exchange, 404, orjson.dumps(Unrecognized().as_dict()), None)

    def _fail(self, exchange: Exchange, route: Route, error: Exception) -> None:
        """Answer a refusal as what it is, and any other failure as nothing in particular."""
        if isinstance(error, defer.CancelledError) and exchange.gone:
            self._record(exchange, _CLIENT_GONE, self.clock.seconds())
            return
        refusal = refusal_of(route, error)
        if refusal is None and exchange.channel is None and self._shutting_down.fired:
            # It had all the time there was, and what it stands on is being taken down: no fault of anybody's.
            log.info("the stop cut a request off: %s %s: %r", exchange.method, exchange.label, error)
            self._record(exchange, _CLIENT_GONE, self.clock.seconds())
            return
        if isinstance(error, NOT_DONE):
            log.warning("no database for %s %s: %s", exchange.method, exchange.label, error)
            self._finish(exchange, 503, *unavailable())
            return
        if refusal is None:
            log.error("request failed: %s %s", exchange.method, exchange.label, exc_info=error)
            self._finish(exchange, 500, _INTERNAL, None)
            return
        status, fields = refusal
        headers = retry_after(error.retry_after_ms) if isinstance(error, LimitExceeded) else None
        self._finish(exchange, status, orjson.dumps(fields), headers)

    # The end

    def _finish(self, exchange: Exchange, status: int, body: bytes, headers: dict[str, str] | None) -> None:
        now = self.clock.seconds()
        if exchange.channel is None:
            self._record(exchange, _CLIENT_GONE, now)
            return
        if self._shutting_down.fired:
            exchange.channel.persistent = False
        response = exchange.response(status, body, headers)
        self._record(exchange, status, now)
        exchange.respond(response, now)

    def _record(self, exchange: Exchange, status: int, now: float) -> None:
        seconds = now - exchange.started if exchange.started else 0.0
        self._metrics.observe(exchange.label, exchange.method, status, seconds)
        self._access_log.write(
            request=exchange.id,
            method=exchange.method,
            route=exchange.label,
            status=status,
            seconds=seconds,
            user=exchange.user,
        )


def _go_on(work: Coroutine[Any, Any, None], waits_for: object) -> Generator[Any, Any, None]:
    """The rest of a coroutine that was begun by hand and waits for a Deferred."""
    try:
        while True:
            try:
                yield waits_for
            except Exception as error:
                waits_for = work.throw(error)
            else:
                waits_for = work.send(None)
    except StopIteration:
        return


def _log_failure(failure: Failure) -> None:
    _log_broken(failure.value)


def _log_broken(error: BaseException | None) -> None:
    """Not even an error could be answered; the connection's deadline ends it."""
    log.error("answering failed", exc_info=error)


def _accept(exchange: Exchange, request: MatrixRequest, requester: Requester) -> None:
    """It is known who asks. Raises the refusal of a known user."""
    exchange.user = requester.user_id
    check_policy(request.route, requester)
    request.requester_or_none = requester
