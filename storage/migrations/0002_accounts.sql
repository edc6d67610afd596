-- SPDX-License-Identifier: Apache-2.0
-- Accounts: users of this server, their devices and tokens, and what is needed on the way to having them.
-- Timestamps (`…_ts`) are milliseconds since 1970. Of every secret that logs somebody in, only the SHA-256 is kept:
-- they are 256 random bits, so nothing can be guessed from the digest.

-- Users of this server. Rows are never deleted: a name, once taken, is not given to somebody else.
CREATE TABLE users (
    user_id text COLLATE "C" PRIMARY KEY,
    password_hash text,                 -- Argon2id in its own encoding; null: cannot log in by password
    created_ts bigint NOT NULL,
    admin boolean NOT NULL DEFAULT false,
    guest boolean NOT NULL DEFAULT false,
    deactivated boolean NOT NULL DEFAULT false,
    erased boolean NOT NULL DEFAULT false,      -- asked, on deactivation, to be forgotten as far as possible
    departing boolean NOT NULL DEFAULT false,   -- deactivated, but not yet out of every room: the work goes on
    locked boolean NOT NULL DEFAULT false,
    suspended boolean NOT NULL DEFAULT false,
    user_type text,                     -- null for people; "bot" and the like, as the registering tool named it
    terms_accepted jsonb                -- policy name → version accepted at registration
);
CREATE INDEX users_departing ON users (user_id) WHERE departing;
CREATE INDEX users_erased ON users (user_id) WHERE erased;

-- Log-ins. What belongs to a device (tokens here, keys and messages elsewhere) hangs on this row and goes with it.
CREATE TABLE devices (
    user_id text COLLATE "C" NOT NULL REFERENCES users,
    device_id text COLLATE "C" NOT NULL,
    display_name text,
    created_ts bigint NOT NULL,
    last_seen_ts bigint,                -- about a minute coarse
    last_seen_ip text,
    last_seen_user_agent text,
    PRIMARY KEY (user_id, device_id)
) WITH (fillfactor = 80);

-- Refresh tokens. A rotated one stays valid until its successor, or the access token that came with that, is used.
-- At most two rows per device: the current token and one unused successor.
CREATE TABLE refresh_tokens (
    token_hash bytea PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    created_ts bigint NOT NULL,
    replaces bytea UNIQUE,              -- hash of the token this one succeeds, while that is still valid
    FOREIGN KEY (user_id, device_id) REFERENCES devices ON DELETE CASCADE
);
CREATE INDEX refresh_tokens_by_device ON refresh_tokens (user_id, device_id);

-- Access tokens. Expired ones stay for a day after their device refreshed, and forever while it has not: only
-- their presence tells "expired, log in again and keep your keys" from "this device is gone".
CREATE TABLE access_tokens (
    token_hash bytea PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    created_ts bigint NOT NULL,
    expires_ts bigint,                  -- null: valid until log-out
    refresh_hash bytea REFERENCES refresh_tokens ON DELETE SET NULL,  -- the refresh token it came with
    unused boolean NOT NULL DEFAULT false,  -- made by a refresh; its first use ends the token that was refreshed
    FOREIGN KEY (user_id, device_id) REFERENCES devices ON DELETE CASCADE
);
CREATE INDEX access_tokens_by_device ON access_tokens (user_id, device_id);
CREATE INDEX access_tokens_by_refresh ON access_tokens (refresh_hash) WHERE refresh_hash IS NOT NULL;

-- Tokens of `m.login.token`: one log-in each. Expired rows are swept.
CREATE TABLE login_tokens (
    token_hash bytea PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL REFERENCES users,
    expires_ts bigint NOT NULL
);
CREATE INDEX login_tokens_by_expiry ON login_tokens (expires_ts);
CREATE INDEX login_tokens_by_user ON login_tokens (user_id);

-- Tokens by which a third party learns who a user is. Expired rows are swept.
CREATE TABLE openid_tokens (
    token_hash bytea PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL REFERENCES users,
    expires_ts bigint NOT NULL
);
CREATE INDEX openid_tokens_by_expiry ON openid_tokens (expires_ts);
CREATE INDEX openid_tokens_by_user ON openid_tokens (user_id);

-- Tokens that allow registering. Kept in clear, as administrators list them and hand them on; made by
-- administrators only, so their number is theirs. Uses under way are not counted here but by the
-- authentication sessions that hold the token, so that one left half-way gives its use back by expiring.
CREATE TABLE registration_tokens (
    token text COLLATE "C" PRIMARY KEY,
    uses_allowed int,                   -- null: any number
    completed int NOT NULL DEFAULT 0,
    created_ts bigint NOT NULL,
    expires_ts bigint,                  -- null: never
    first_account boolean NOT NULL DEFAULT false  -- works while registration is closed, and makes an administrator
);

-- Sessions of user-interactive authentication. Expired rows are swept.
CREATE TABLE uia_sessions (
    session_id text COLLATE "C" PRIMARY KEY,
    operation text NOT NULL,            -- what is being authorised, down to its object; the session serves nothing else
    user_id text COLLATE "C",           -- for whom; null where nobody is logged in
    expires_ts bigint NOT NULL,
    completed text[] NOT NULL DEFAULT '{}',  -- stages, in the order of completion
    registration_token text COLLATE "C" REFERENCES registration_tokens ON DELETE SET NULL  -- a use reserved
);
CREATE INDEX uia_sessions_by_expiry ON uia_sessions (expires_ts);
CREATE INDEX uia_sessions_by_user ON uia_sessions (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX uia_sessions_by_token ON uia_sessions (registration_token) WHERE registration_token IS NOT NULL;

-- Nonces given out for registration by shared secret, until used. Expired rows are swept.
CREATE TABLE registration_nonces (
    nonce text COLLATE "C" PRIMARY KEY,
    expires_ts bigint NOT NULL
);
CREATE INDEX registration_nonces_by_expiry ON registration_nonces (expires_ts);

-- Filters a user's clients uploaded. The id is a digest of the content, so that each content is there once; the
-- oldest go when a user has too many.
CREATE TABLE filters (
    user_id text COLLATE "C" NOT NULL REFERENCES users,
    filter_id text COLLATE "C" NOT NULL,
    uploaded_ts bigint NOT NULL,        -- last time; an upload of the same content renews it
    definition text NOT NULL,           -- canonical JSON
    PRIMARY KEY (user_id, filter_id)
);
