# SPDX-License-Identifier: Apache-2.0
"""Signed requests to other servers, and one typed call per endpoint of theirs."""
