# SPDX-License-Identifier: Apache-2.0
"""The configuration of the echo account. Owns the section `calls`, part of what `sections` declares."""

from dataclasses import dataclass

from homeserver.config import values
from homeserver.config.option import option
from homeserver.config.units import Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """What helps people to find out why a call fails."""

    echo_user: str | None = option(
        default=None,
        check=values.user_name,
        doc="The name of an account that the server runs itself: it answers calls of this server's users, lets them "
        "hear and see themselves, and then writes what arrived. null: there is none.",
        example="echo",
    )
    silence: Seconds = option(
        default=Seconds(15),
        check=values.at_least(5),
        doc="How long nothing may arrive from somebody who calls it until they are taken to be gone. Browsers send "
        "something every five seconds.",
    )
