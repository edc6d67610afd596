# SPDX-License-Identifier: Apache-2.0
"""The configuration: typed sections, the file they come from, the secrets the server makes for itself.

Owns everything an administrator sets. Reads no environment variable and holds no global state; `Config` is
read once and its sections are handed to the components that use them.
"""

from homeserver.config.errors import ConfigError, StartRefused
from homeserver.config.loader import load, parse
from homeserver.config.sections import Config

__all__ = ["Config", "ConfigError", "StartRefused", "load", "parse"]
