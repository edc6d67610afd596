# SPDX-License-Identifier: Apache-2.0
"""What users say about themselves: `service` keeps profiles, `fields` knows what may stand in one, `lookup` finds those
of other servers' users, too."""

from homeserver.profiles.service import Profiles

__all__ = ["Profiles"]
