# SPDX-License-Identifier: Apache-2.0
"""`lares register-user`: make an account on a running server.

Owns the terminal side: the password prompt, the call and its outcome in words. The account is made by the
server, through POST /_synapse/admin/v1/register, which the ecosystem's tools use too: the client asks for a
nonce, and proves with an HMAC-SHA1 over nonce and account that it knows the registration secret.
"""

import argparse
import getpass
import hashlib
import hmac
import json
import ssl
import sys
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from homeserver.cli.command import Commands, add_config_option, command_parser, config_of
from homeserver.config import Config, StartRefused
from homeserver.config.registration_secret import read_registration_secret
from homeserver.config.sections import Listener, Tls, listener_url

_PATH: Final = "_synapse/admin/v1/register"
_TIMEOUT_SECONDS: Final = 30


def add_parser(commands: Commands) -> None:
    """Add this command to the command line."""
    parser = command_parser(
        commands,
        "register-user",
        run=_run,
        summary="make an account on a running server",
        description=(
            "Make an account on a running server, whether or not registration is open. Must be run with the\n"
            "configuration of that server, whose registration secret it reads; asks for the password."
        ),
        example="lares register-user alice --admin\n"
        "lares register-user --config lares.yaml bob --password-file bob.txt",
    )
    parser.add_argument("username", help="the name before the colon, such as alice")
    parser.add_argument("--admin", action="store_true", help="make the account a server administrator")
    parser.add_argument("--display-name", metavar="NAME", help="the name others see (default: the user name)")
    password = parser.add_mutually_exclusive_group()
    password.add_argument(
        "--password", help="the password; seen by other users of this machine while it runs"
    )
    password.add_argument(
        "--password-file",
        metavar="FILE",
        type=Path,
        help="file whose first line is the password; - is standard input",
    )
    parser.add_argument("--url", type=_http_url, help="where the server is (default: its own admin listener)")
    add_config_option(parser)


def _run(arguments: argparse.Namespace) -> int:
    config = config_of(arguments)
    secret = read_registration_secret(config)
    listener = None if arguments.url else _admin_listener(config)
    url = (arguments.url if listener is None else listener_url(listener)).rstrip("/") + "/" + _PATH
    tls = None if listener is None or listener.tls is None else _only_trusting(listener.tls)
    username = arguments.username.removeprefix("@").removesuffix(f":{config.server_name}")
    password = _password(arguments)

    nonce = _call(url, None, tls).get("nonce")
    if not isinstance(nonce, str):
        raise StartRefused(f"{url} gave no nonce: is it this server?")
    body = {
        "nonce": nonce,
        "username": username,
        "password": password,
        "admin": arguments.admin,
        "mac": registration_mac(secret, nonce, username, password, admin=arguments.admin),
    }
    if arguments.display_name is not None:
        body["displayname"] = arguments.display_name
    answer = _call(url, body, tls)
    role = "administrator" if arguments.admin else "user"
    print(f"registered {role} {answer.get('user_id', username)}")
    return 0


def registration_mac(secret: str, nonce: str, username: str, password: str, *, admin: bool) -> str:
    """The proof the endpoint asks for, in hex: HMAC-SHA1 over its fields, joined by NUL."""
    fields = (nonce, username, password, "admin" if admin else "notadmin")
    return hmac.new(secret.encode(), "\0".join(fields).encode(), hashlib.sha1).hexdigest()


def _http_url(text: str) -> str:
    if urlsplit(text).scheme not in {"http", "https"} or not urlsplit(text).netloc:
        raise argparse.ArgumentTypeError("must start with http:// or https://")
    return text


def _admin_listener(config: Config) -> Listener:
    """The listener that serves admin, one without TLS first."""
    serving = [each for each in config.listeners if "admin" in each.serves and each.port != 0]
    if not serving:
        raise StartRefused("no listener with a fixed port serves admin: say where the server is with --url")
    return min(serving, key=lambda each: each.tls is not None)


def _only_trusting(tls: Tls) -> ssl.SSLContext:
    """Accepts the very certificate the listener shows, whoever signed it: its name is not the loopback address."""
    context = ssl.create_default_context(cafile=tls.certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _password(arguments: argparse.Namespace) -> str:
    given: str | None = arguments.password
    if arguments.password_file is not None:
        given = _first_line(arguments.password_file)
    if given is None:
        given = getpass.getpass(f"Password for {arguments.username}: ")
        if given and getpass.getpass("The same again: ") != given:
            raise StartRefused("the two passwords differ")
    if not given:
        raise StartRefused("the password is empty")
    return given


def _first_line(path: Path) -> str:
    try:
        text = sys.stdin.readline() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StartRefused(f"cannot read {path}: {getattr(error, 'strerror', error)}") from error
    return text.partition("\n")[0].rstrip("\r")


def _call(url: str, body: dict[str, Any] | None, tls: ssl.SSLContext | None) -> dict[str, Any]:
    """GET, or POST of a body; the decoded answer. Raises StartRefused with the server's own words."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json"})  # noqa: S310  (scheme checked)
    try:
        with urlopen(request, timeout=_TIMEOUT_SECONDS, context=tls) as response:  # noqa: S310
            answer = json.loads(response.read())
    except HTTPError as error:
        raise StartRefused(_refusal(error)) from error
    except URLError as error:
        raise StartRefused(f"no server answers at {url} ({error.reason}): is it running?") from error
    except (OSError, HTTPException, ValueError) as error:
        raise StartRefused(f"{url} did not answer as a Matrix server does: {error}") from error
    if not isinstance(answer, dict):
        raise StartRefused(f"{url} did not answer as a Matrix server does")
    return answer


def _refusal(error: HTTPError) -> str:
    with error:
        try:
            answer = json.loads(error.read())
            return f"the server refused: {answer['error']} ({answer['errcode']})"
        except (OSError, HTTPException, ValueError, TypeError, KeyError):
            return f"the server refused: HTTP {error.code} {error.reason}"
