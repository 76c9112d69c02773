-- What the store's tables were before it had revisions; made by that code, never to be changed.
CREATE TABLE decisions (
    sequence INTEGER NOT NULL,
    decision_id VARCHAR(36) NOT NULL,
    decided_at VARCHAR(32) NOT NULL,
    record_key TEXT NOT NULL,
    entity TEXT NOT NULL,
    record TEXT NOT NULL,
    decision TEXT NOT NULL,
    score FLOAT,
    reasons TEXT NOT NULL,
    served_by VARCHAR(16) NOT NULL,
    assigned VARCHAR(16) NOT NULL,
    why VARCHAR(32) NOT NULL,
    model_digest VARCHAR(64),
    revision INTEGER NOT NULL,
    bucket INTEGER,
    stage VARCHAR(16) NOT NULL,
    sandbox BOOLEAN NOT NULL,
    elapsed_ms FLOAT NOT NULL,
    PRIMARY KEY (sequence),
    UNIQUE (decision_id)
);
CREATE INDEX ix_decisions_decided_at ON decisions (decided_at);
CREATE INDEX ix_decisions_entity ON decisions (entity);
CREATE INDEX ix_decisions_record_key ON decisions (record_key);
CREATE TABLE outbox (
    sequence INTEGER NOT NULL,
    decision_id VARCHAR(36) NOT NULL,
    entity TEXT NOT NULL,
    queued_at VARCHAR(32) NOT NULL,
    state VARCHAR(16) NOT NULL,
    settled_at VARCHAR(32),
    attempts INTEGER NOT NULL,
    attempted_at VARCHAR(32),
    error VARCHAR(200),
    PRIMARY KEY (sequence),
    UNIQUE (decision_id)
);
CREATE INDEX outbox_waiting ON outbox (sequence) WHERE state = 'waiting';
CREATE TABLE outcomes (
    sequence INTEGER NOT NULL,
    record_key TEXT NOT NULL,
    outcome TEXT NOT NULL,
    known_at VARCHAR(32),
    received_at VARCHAR(32) NOT NULL,
    source TEXT NOT NULL,
    PRIMARY KEY (sequence)
);
CREATE INDEX ix_outcomes_received_at ON outcomes (received_at);
CREATE INDEX ix_outcomes_record_key ON outcomes (record_key);
CREATE TABLE shadow (
    sequence INTEGER NOT NULL,
    decision_id VARCHAR(36),
    at VARCHAR(32) NOT NULL,
    digest VARCHAR(64) NOT NULL,
    bucket INTEGER,
    sandbox BOOLEAN NOT NULL,
    status VARCHAR(16) NOT NULL,
    times INTEGER NOT NULL,
    score FLOAT,
    decision TEXT,
    agrees BOOLEAN,
    elapsed_ms FLOAT,
    PRIMARY KEY (sequence)
);
CREATE INDEX ix_shadow_decision_id ON shadow (decision_id);
CREATE INDEX shadow_by_model ON shadow (digest, at);
