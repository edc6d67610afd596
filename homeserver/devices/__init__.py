# SPDX-License-Identifier: Apache-2.0
"""End-to-end encryption as far as a server has a part in it: keys, lists of devices, messages to devices.

One service per verb, put together by `services`. Owns what is kept for devices and told to them; knows other servers
only by the Protocols of `remote`. Devices themselves (log-in, log-out, names) are `homeserver/accounts`'.
"""
