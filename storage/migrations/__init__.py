# SPDX-License-Identifier: Apache-2.0
"""The schema, as numbered files that `storage.migrate` applies. Holds no code."""
