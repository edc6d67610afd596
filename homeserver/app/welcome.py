# SPDX-License-Identifier: Apache-2.0
"""What a starting server prints for people: what was made, how to make the first account, and that it is ready.

Owns the words; once per server, whoever finds out what they tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from homeserver.config.sections import Listener

FirstAccountCommand = Callable[[Sequence[tuple[Listener, int]]], str | None]
"""From the listeners and their ports to what an administrator types to make an account, if that can be done there."""


def print_welcome(made: Sequence[str], *, nobody_yet: bool, command: str | None, token: str | None) -> None:
    """Tell a new administrator what was made, and while nobody has an account how to make one."""
    if made:
        *others, last = made
        print(f"made {', '.join(others)}{' and ' if others else ''}{last}", flush=True)  # noqa: T201
    if not nobody_yet:
        return
    if command is not None:
        print(f"no account yet; make an administrator with:\n\n    {command}\n", flush=True)  # noqa: T201
    if token is not None:
        print(f"or register in a client with the one-time token {token}", flush=True)  # noqa: T201


def print_ready(server_name: str, addresses: Sequence[str]) -> None:
    """The line by which others learn that requests are accepted."""
    print(f"ready: {server_name} on {', '.join(addresses)}", flush=True)  # noqa: T201
