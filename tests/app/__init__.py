# SPDX-License-Identifier: Apache-2.0
"""The life of a server process, seen from outside: how it starts, refuses, serves, logs, stops and comes back."""
