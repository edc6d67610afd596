# SPDX-License-Identifier: Apache-2.0
"""Media of other servers, fetched for this server's users (server-server API, "Content Repository")."""
