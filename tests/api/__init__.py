# SPDX-License-Identifier: Apache-2.0
"""The whole client-server API over HTTP, against a server process as people run it."""
