-- SPDX-License-Identifier: Apache-2.0
-- Media: what users uploaded here, and what was fetched from other servers for them. The bytes are files named by their
-- digest; this says which there are and what they are called.

CREATE TABLE blobs (
    digest  bytea PRIMARY KEY,   -- SHA-256 of the file
    size    bigint NOT NULL,
    kept_ts bigint NOT NULL      -- when somebody last put the file in its place (ms): what was kept lately is not swept
);

CREATE TABLE media (
    server_name  text NOT NULL,
    media_id     text NOT NULL,
    digest       bytea REFERENCES blobs,  -- NULL: the id is reserved, and nothing was uploaded yet
    size         bigint,
    content_type text,
    filename     text,
    uploader     text,                    -- NULL: another server's
    created_ts   bigint NOT NULL,
    expires_ts   bigint,                  -- of a reservation
    used_ts      bigint NOT NULL,         -- last read, to within an hour
    PRIMARY KEY (server_name, media_id),
    CHECK ((digest IS NULL) = (expires_ts IS NOT NULL))
);
CREATE INDEX media_by_digest ON media (digest) WHERE digest IS NOT NULL;
CREATE INDEX media_by_uploader ON media (uploader) INCLUDE (size) WHERE uploader IS NOT NULL;
CREATE INDEX media_of_others ON media (used_ts) INCLUDE (size) WHERE uploader IS NULL;
CREATE INDEX media_reserved ON media (uploader, expires_ts) WHERE digest IS NULL;

CREATE TABLE thumbnails (
    source       bytea NOT NULL REFERENCES blobs ON DELETE CASCADE,
    width        int NOT NULL,
    height       int NOT NULL,
    crop         boolean NOT NULL,
    animated     boolean NOT NULL,
    digest       bytea NOT NULL REFERENCES blobs,
    size         bigint NOT NULL,
    content_type text NOT NULL,
    PRIMARY KEY (source, width, height, crop, animated)
);
CREATE INDEX thumbnails_by_digest ON thumbnails (digest);
