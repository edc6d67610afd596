# SPDX-License-Identifier: Apache-2.0
"""Reading rooms: what the client-server API's "Getting events for a room" answers.

`places` turns tokens into places of a timeline, `timeline` gives pages of what a user may see, `member_history` who was
called what, `walking` the rows of such a page and what is fetched where history is missing (`missing_history`),
`event_search` one event, `aggregations` what its children add up to, `presenting` how it is written. On these stand
`messages`, `context`, `single_event`, `by_time`, `room_state`, `members`, `relations`, `threads`, `event_stream` and
`initial_sync`, each one endpoint or two; `services` puts them together. Whether a user may read a room at
all is the gate's to say (`homeserver/rooms/access.py`); writing is elsewhere.
"""
