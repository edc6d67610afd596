# SPDX-License-Identifier: Apache-2.0
"""What has happened since a client last looked: `/sync` and its WebSocket face.

`request` and `providers` say what goes in and what is needed of other services; `placement` decides which rooms appear
in which section, `timeline`, `state`, `summary` and `lazy_members` what is in them, `event_bytes` how it is written;
`joined`, `left` and `invited` make the sections, `service` the response; `long_poll` waits for one that has news, and
`websocket` keeps them coming.
"""
