# SPDX-License-Identifier: Apache-2.0
"""`python -m homeserver.cli`: the same as the `lares` command, for a checkout that is not installed."""

import sys

from homeserver.cli import main

sys.exit(main())
