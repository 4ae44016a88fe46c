-- How many candidates the study is to have. More may be asked for later.
ALTER TABLE study ADD COLUMN budget BIGINT NOT NULL DEFAULT 0;

-- What all candidates share, such as the trained dense network: made once, by one worker.
CREATE TABLE part (
    study TEXT NOT NULL REFERENCES study (name),
    name TEXT NOT NULL,
    worker TEXT NOT NULL,
    -- Seconds since 1970 after which its maker is taken for dead.
    lease_until DOUBLE PRECISION NOT NULL,
    -- 1 once it is made.
    ready BIGINT NOT NULL,
    bytes BYTEA NOT NULL,
    PRIMARY KEY (study, name)
);
