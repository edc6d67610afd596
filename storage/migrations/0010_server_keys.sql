-- SPDX-License-Identifier: Apache-2.0
-- Signing keys of other servers, and what they published last, for those who ask this server as a notary.

-- A key that a server signed with. Rows outlive the key's use: old events stay verifiable. One key id may have named
-- several keys, of which each stays good for its time. At most 64 per server, those learned of longest ago go.
CREATE TABLE server_keys (
    server_name text COLLATE "C" NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    public_key bytea NOT NULL,
    valid_until_ts bigint NOT NULL,     -- what is signed after that is not taken; at most seven days ahead
    retired boolean NOT NULL,           -- the server does not sign with it any more, since valid_until_ts
    direct boolean NOT NULL,            -- learned from the server itself; else from a notary
    learned_ts bigint NOT NULL,         -- last time
    PRIMARY KEY (server_name, key_id, public_key)
);

-- The last answer to GET /_matrix/key/v2/server of a server, as it was signed.
CREATE TABLE server_key_answers (
    server_name text COLLATE "C" PRIMARY KEY,
    answer text NOT NULL,
    valid_until_ts bigint NOT NULL,     -- as far as we believe it
    fetched_ts bigint NOT NULL
);
