# SPDX-License-Identifier: Apache-2.0
"""Signing keys: those of this server, published; those of others, fetched, kept, and used to check signatures."""
