# SPDX-License-Identifier: Apache-2.0
"""The client-server API's endpoints, one module per module of the specification.

Each parses a request, calls one service and replies. Rules are the services', HTTP is `homeserver.web`'s.
"""
