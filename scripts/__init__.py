# SPDX-License-Identifier: Apache-2.0
"""What a person runs from a checkout; the thin executables here call the packages beside them."""
