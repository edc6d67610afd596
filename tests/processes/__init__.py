# SPDX-License-Identifier: Apache-2.0
"""Several processes on one database: what one answered, every other knows."""
