# SPDX-License-Identifier: Apache-2.0
"""Why the server cannot start: a wrong configuration, or a right one that this machine's state refuses.

Owns the two exceptions the command line turns into exit codes (2 and 1). Errors of requests are not here.

    Exception
    ├── ConfigError    the configuration is wrong; says every wrong key at once
    └── StartRefused   it is right, but a port, a file, the database or another instance is in the way
"""

from collections.abc import Sequence


class ConfigError(Exception):
    """The configuration cannot be used. `problems` holds one complete sentence per wrong key."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{source}: {problem}" for problem in self.problems))


class StartRefused(Exception):
    """The server may not or cannot start here and now. The message tells the administrator what to do."""
