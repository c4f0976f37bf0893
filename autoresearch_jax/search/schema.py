"""Tables of a run's ledger, their version, and the way from each version to the next."""

# The source comes last in its row: reading the other columns then never touches its pages.
_TABLES = """
CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL                 -- JSON
) STRICT;

CREATE TABLE experiments (
    id INTEGER PRIMARY KEY,             -- 0, 1, 2, ...
    kind TEXT NOT NULL CHECK (kind IN ('baseline', 'proposal', 'trial')),
    parent INTEGER REFERENCES experiments (id),     -- the champion it was made from
    parent_commit TEXT,
    proposer TEXT NOT NULL,
    hypothesis TEXT NOT NULL,
    category TEXT NOT NULL,
    cost_dollars REAL NOT NULL,
    constants TEXT NOT NULL,            -- JSON: top-level constants of the source
    created_at REAL NOT NULL,           -- seconds since 1970
    program_hash TEXT,
    status TEXT,                        -- null until it is over, like all that follows
    score REAL,
    decision TEXT CHECK (decision IN ('keep', 'discard')),
    reason TEXT,
    commit_id TEXT,
    seconds REAL,                       -- spent on it by the process that ended it
    source TEXT NOT NULL
) STRICT;

CREATE TABLE trials (
    id INTEGER PRIMARY KEY,             -- 1, 2, 3, ...
    experiment INTEGER NOT NULL REFERENCES experiments (id),
    seed INTEGER NOT NULL,
    started_at REAL NOT NULL,
    finished_at REAL,                   -- null while it runs
    status TEXT,
    value REAL,
    metrics TEXT,                       -- JSON
    snapshot TEXT,
    error TEXT
) STRICT;

CREATE INDEX trials_of_experiment ON trials (experiment);
CREATE INDEX experiments_by_program ON experiments (program_hash);
"""

_SEALS_AND_SESSIONS = """
-- SHA-256 of the row, written when it is concluded, null in rows that version 1 concluded
ALTER TABLE experiments ADD COLUMN digest TEXT;
ALTER TABLE trials ADD COLUMN digest TEXT;

CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,             -- 1, 2, 3, ...: the processes that worked on the run
    began_at REAL NOT NULL,
    ended_at REAL,                      -- null while it is at work, and if it was killed
    reason TEXT,                        -- why it ended, one line
    digest TEXT
) STRICT
"""

# What makes each version of the one before it, statements apart by ";": a new ledger goes the same way.
MIGRATIONS = (_TABLES, _SEALS_AND_SESSIONS)
SCHEMA_VERSION = len(MIGRATIONS)
