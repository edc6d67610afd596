-- SPDX-License-Identifier: Apache-2.0
-- Call history is read off the events. These two indexes hold nothing but events of calls, which are few.
-- The list of types is repeated, letter by letter, in storage/call_events.py.

CREATE INDEX events_of_calls ON events (room, position)
WHERE type IN ('m.call.invite', 'm.call.answer', 'm.call.select_answer', 'm.call.reject', 'm.call.hangup',
    'm.call.member', 'org.matrix.msc3401.call.member', 'm.rtc.notification', 'org.matrix.msc4075.rtc.notification',
    'm.call.notify', 'org.matrix.msc4075.call.notify', 'm.rtc.decline', 'org.matrix.msc4310.rtc.decline');
CREATE INDEX events_of_call_members ON events (room, type, state_key, position)
WHERE type IN ('m.call.member', 'org.matrix.msc3401.call.member');
