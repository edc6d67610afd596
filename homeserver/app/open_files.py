# SPDX-License-Identifier: Apache-2.0
"""How many files and connections the process may have open. Owns setting the limit, once, as the process begins: what
shares it out (`homeserver.web.listeners`) reads it afterwards.
"""

from __future__ import annotations

import logging
import resource

logger = logging.getLogger(__name__)


def allow_open_files(wanted: int) -> int:
    """Have the limit be `wanted`, or as near to it as the system's own (`ulimit -Hn`) lets it; what it is now.

    Most systems give a process 1,024 unless it asks, for the sake of programs that use `select`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    except (OSError, ValueError) as error:
        logger.warning("the limit of open files stays at %d: %s", soft, error)
        return soft
    return limit
