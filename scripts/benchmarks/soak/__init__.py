# SPDX-License-Identifier: Apache-2.0
"""The soak: mixed load for half an hour, and whether memory stays what it was.

`load` is what clients do meanwhile, `sampling` takes memory and judges it, `command` puts them together.
"""
