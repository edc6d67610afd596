# SPDX-License-Identifier: Apache-2.0
"""More than can be done."""
