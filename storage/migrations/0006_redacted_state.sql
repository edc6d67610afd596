-- SPDX-License-Identifier: Apache-2.0
-- What of a room's state was redacted: a client that missed the redaction in a gap is sent those events anew.
CREATE INDEX events_redacted_state ON events (room) WHERE redacted_by IS NOT NULL AND state_key IS NOT NULL;
