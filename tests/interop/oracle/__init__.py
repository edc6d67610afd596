# SPDX-License-Identifier: Apache-2.0
"""Rules of the protocol compared with Synapse's, which answers from a process of its own."""
