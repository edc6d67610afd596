# SPDX-License-Identifier: Apache-2.0
"""More than a server can do: what it still does then, and for whom."""
