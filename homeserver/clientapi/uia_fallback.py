# SPDX-License-Identifier: Apache-2.0
"""Web pages for stages of user-interactive authentication a client does not know. Client-server API, "Fallback".

Owns the pages. Everything put into them is escaped, and a policy without scripts but our own (named by its digest) and
without frames stands in their headers.
"""

import hashlib
from base64 import b64encode
from collections.abc import Mapping
from html import escape
from string import Template
from typing import Any, Final
from urllib.parse import parse_qsl

from homeserver.accounts.registration_gate import RegistrationGate
from homeserver.accounts.stages import DUMMY, REGISTRATION_TOKEN, TERMS
from homeserver.accounts.uia import Uia
from homeserver.errors import InvalidParam, LimitExceeded, MatrixError, Unrecognized
from homeserver.web.replies import Reply, Response
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route

# As the specification gives it, word for word.
_SCRIPT: Final = """
if (window.onAuthDone) {
    window.onAuthDone();
} else if (window.opener && window.opener.postMessage) {
    window.opener.postMessage("authDone", "*");
}
"""
_STYLE: Final = (
    "body{font:1rem/1.5 sans-serif;max-width:30rem;margin:3rem auto;padding:0 1rem}input{font:inherit}"
)

_PAGE: Final = Template(
    '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>$title</title>'
    '<meta name="viewport" content="width=device-width, initial-scale=1"><style>$style</style></head>'
    "<body><h1>$title</h1>$content</body></html>"
)
_FORM: Final = Template(
    '$problem<form method="post">$fields<p><input type="submit" value="$button"></p></form>'
)
_DONE: Final = f"<p>Thank you. You may close this page and go back.</p><script>{_SCRIPT}</script>"
_CODE_FIELD: Final = (
    '<p><label>Registration token<br><input name="token" required maxlength="64" autocomplete="off">'
    "</label></p>"
)


def _digest(text: str) -> str:
    return "'sha256-" + b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


_HEADERS: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_digest(_SCRIPT)}; style-src {_digest(_STYLE)}; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class UiaFallback:
    """`/auth/{stage}/fallback/web` for the dummy, the terms and the registration token."""

    def __init__(self, uia: Uia, gate: RegistrationGate) -> None:
        self._uia = uia
        self._gate = gate

    def routes(self) -> tuple[Route, ...]:
        path = "/auth/{stage}/fallback/web"
        limit = "registration_checks"
        return (
            Route("GET", path, self.show, auth=Auth.NONE, limit=limit),
            Route("POST", path, self.submit, auth=Auth.NONE, limit=limit),
        )

    async def show(self, request: MatrixRequest) -> Reply:
        """`GET /auth/{stage}/fallback/web?session=…`. Raises InvalidParam for a session that is none."""
        stage = _stage(request)
        if not await self._uia.exists(request.query.required("session")):
            raise InvalidParam("This authentication session is unknown or has expired")
        return self._form(stage, None, 200)

    async def submit(self, request: MatrixRequest) -> Reply:
        """`POST` of the page's own form to its own address."""
        stage = _stage(request)
        answer = _form_fields(request.content)
        try:
            await self._uia.complete_elsewhere(request.query.required("session"), stage, answer)
        except LimitExceeded:
            raise
        except MatrixError as error:
            return self._form(stage, error.message, 403)
        return _page("Done", _DONE, 200)

    def _form(self, stage: str, problem: str | None, status: int) -> Response:
        if stage == TERMS:
            title, button = "Terms", "I accept"
            fields = policy_list(self._gate.policies())
        elif stage == REGISTRATION_TOKEN:
            title, button, fields = "Registration token", "Continue", _CODE_FIELD
        else:
            title, button, fields = "Continue", "Continue", ""
        shown = "" if problem is None else f'<p role="alert">{escape(problem)}</p>'
        return _page(title, _FORM.substitute(problem=shown, fields=fields, button=button), status)


def policy_list(policies: Mapping[str, Mapping[str, Any]]) -> str:
    """The documents as links, one per language, escaped."""
    links = "".join(
        f'<li><a href="{escape(document["url"])}" target="_blank" rel="noopener noreferrer">'
        f"{escape(document['name'])}</a> ({escape(language)}, {escape(str(policy['version']))})</li>"
        for policy in policies.values()
        for language, document in policy.items()
        if language != "version"
    )
    return f"<p>To have an account here, please read and accept:</p><ul>{links}</ul>"


def _stage(request: MatrixRequest) -> str:
    stage = request.param("stage")
    if stage not in {DUMMY, TERMS, REGISTRATION_TOKEN}:
        raise Unrecognized("There is no page for that stage")
    return stage


def _form_fields(content: bytes) -> dict[str, str]:
    """The fields of an URL-encoded form; nonsense gives none."""
    try:
        fields = dict(parse_qsl(content.decode("ascii"), max_num_fields=10, errors="strict"))
    except ValueError:
        return {}
    return {name: value.replace("\0", "") for name, value in fields.items()}


def _page(title: str, content: str, status: int) -> Response:
    page = _PAGE.substitute(title=title, style=_STYLE, content=content)
    return Response(status, page.encode(), _HEADERS)
