-- One row per study of a database.
CREATE TABLE study (
    name TEXT PRIMARY KEY,
    -- What is searched for and how, as JSON.
    settings TEXT NOT NULL,
    -- Number of decisions so far: proposals made and results accepted. Whoever decides raises it first
    -- and thereby locks the study.
    revision BIGINT NOT NULL
);

-- One row per candidate, from its proposal on.
CREATE TABLE candidate (
    study TEXT NOT NULL REFERENCES study (name),
    id BIGINT NOT NULL,
    -- Genome and what the optimiser must know of it, as JSON.
    proposal TEXT NOT NULL,
    -- Revisions at which it was proposed and at which its result was accepted.
    asked BIGINT NOT NULL,
    told BIGINT,
    -- leased, done or failed
    status TEXT NOT NULL,
    worker TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    -- Seconds since 1970 after which its worker is taken for dead.
    lease_until DOUBLE PRECISION NOT NULL,
    -- Objectives and details, as JSON.
    result TEXT,
    error TEXT,
    seconds DOUBLE PRECISION,
    PRIMARY KEY (study, id)
);

-- Files that belong to candidates, such as their exported models.
CREATE TABLE artefact (
    study TEXT NOT NULL,
    candidate BIGINT NOT NULL,
    name TEXT NOT NULL,
    bytes BYTEA NOT NULL,
    PRIMARY KEY (study, candidate, name),
    FOREIGN KEY (study, candidate) REFERENCES candidate (study, id)
);
