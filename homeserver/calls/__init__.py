# SPDX-License-Identifier: Apache-2.0
"""Calls: what the server adds so that voices and pictures find their way. Signalling itself is room events."""
