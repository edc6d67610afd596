# SPDX-License-Identifier: Apache-2.0
"""What other servers may ask: one module per noun. A handler parses, calls one service, replies."""
