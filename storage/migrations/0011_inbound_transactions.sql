-- SPDX-License-Identifier: Apache-2.0
-- What other servers sent: transactions with the answers they got, and events for which others must be fetched first.

-- A transaction is answered alike however often it comes. A server sends its next one only once it has the answer, so
-- few are kept of each. Neither function below waits for the disk: what a crash forgets is done again, and everything
-- in a transaction may be done twice.
CREATE TABLE inbound_transactions (
    origin text COLLATE "C" NOT NULL,
    txn_id text COLLATE "C" NOT NULL,
    began timestamptz NOT NULL DEFAULT clock_timestamp(),
    leased_until timestamptz NOT NULL,     -- while there is no answer: a process works at it until then
    answer text,                           -- JSON
    PRIMARY KEY (origin, txn_id)
);
CREATE INDEX inbound_transactions_by_age ON inbound_transactions (began);

-- Whether the caller is to do the work, and the answer if there is one; neither: another process is at it.
CREATE FUNCTION begin_inbound_transaction(p_origin text, p_txn_id text, p_seconds float8, OUT fresh boolean, OUT known text)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    SELECT false, t.answer INTO fresh, known FROM inbound_transactions t
    WHERE t.origin = p_origin AND t.txn_id = p_txn_id AND t.answer IS NOT NULL;
    IF FOUND THEN RETURN; END IF;
    INSERT INTO inbound_transactions AS t (origin, txn_id, leased_until)
    VALUES (p_origin, p_txn_id, clock_timestamp() + make_interval(secs => p_seconds))
    ON CONFLICT (origin, txn_id) DO UPDATE SET leased_until = excluded.leased_until
    WHERE t.answer IS NULL AND t.leased_until < clock_timestamp();
    fresh := FOUND;
    IF NOT fresh THEN
        SELECT t.answer INTO known FROM inbound_transactions t WHERE t.origin = p_origin AND t.txn_id = p_txn_id;
    END IF;
END
$$;

-- Keeps the answer, and of that server's transactions the newest.
CREATE FUNCTION end_inbound_transaction(p_origin text, p_txn_id text, p_answer text, p_keep int) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE inbound_transactions SET answer = p_answer WHERE origin = p_origin AND txn_id = p_txn_id;
    DELETE FROM inbound_transactions t USING (
        SELECT o.txn_id FROM inbound_transactions o WHERE o.origin = p_origin AND o.answer IS NOT NULL
        ORDER BY o.began DESC OFFSET p_keep
    ) AS old
    WHERE t.origin = p_origin AND t.txn_id = old.txn_id;
END
$$;

-- Events that were checked and taken, and wait for others to be fetched.
CREATE TABLE inbound_pdus (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    room_id text COLLATE "C" NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    origin text COLLATE "C" NOT NULL,      -- who sent it, and is asked first
    depth bigint NOT NULL,
    pdu text NOT NULL,                     -- canonical JSON, checked
    attempts int NOT NULL DEFAULT 0,
    not_before timestamptz NOT NULL DEFAULT now(),
    UNIQUE (room_id, event_id)
);
CREATE INDEX inbound_pdus_of_origin ON inbound_pdus (origin);
CREATE INDEX inbound_pdus_due ON inbound_pdus (not_before);

-- A room's waiting events are worked on by one process.
CREATE TABLE inbound_rooms (
    room_id text COLLATE "C" PRIMARY KEY,
    worker text NOT NULL,
    leased_until timestamptz NOT NULL
);
