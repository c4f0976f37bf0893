"""Tables of a run's ledger."""

from dataclasses import dataclass

# The source comes last in its row: reading the other columns then never touches its pages. `digest` is the SHA-256 of
# the row, written when it is concluded; what is null has no part in it.
SCHEMA = """
CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL                 -- JSON
) STRICT;

CREATE TABLE experiments (
    id INTEGER PRIMARY KEY,             -- 0, 1, 2, ...
    kind TEXT NOT NULL CHECK (kind IN ('baseline', 'proposal', 'revert', 'trial')),
    parent INTEGER REFERENCES experiments (id),     -- the champion it was made from
    parent_commit TEXT,
    proposer TEXT NOT NULL,
    hypothesis TEXT NOT NULL,
    category TEXT NOT NULL,
    cost_dollars REAL NOT NULL,
    constants TEXT NOT NULL,            -- JSON: top-level constants of the source
    created_at REAL NOT NULL,           -- seconds since 1970
    without TEXT,                       -- JSON: experiments whose edits a revert takes out
    program_hash TEXT,
    status TEXT,                        -- null until it is over, like all that follows
    score REAL,
    decision TEXT CHECK (decision IN ('keep', 'discard')),
    reason TEXT,
    commit_id TEXT,
    seconds REAL,                       -- spent on it by the process that ended it
    simplification INTEGER,             -- 1 if it was kept for its shorter source alone
    digest TEXT,
    source TEXT NOT NULL
) STRICT;

CREATE INDEX experiments_by_program ON experiments (program_hash);

CREATE TABLE trials (
    id INTEGER PRIMARY KEY,             -- 1, 2, 3, ...
    experiment INTEGER NOT NULL REFERENCES experiments (id),
    seed INTEGER NOT NULL,
    purpose TEXT CHECK (purpose IN ('champion', 'certify')),    -- null to decide on its experiment
    started_at REAL NOT NULL,
    interrupted_at REAL,                -- when a signal cut it short, null again once it is taken up
    finished_at REAL,                   -- null while it runs
    status TEXT,
    value REAL,
    metrics TEXT,                       -- JSON
    snapshot TEXT,
    error TEXT,
    items TEXT,                         -- JSON: the score on each test item, of a task that has such
    digest TEXT
) STRICT;

CREATE INDEX trials_of_experiment ON trials (experiment);

CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,             -- 1, 2, 3, ...: the processes that worked on the run
    began_at REAL NOT NULL,
    ended_at REAL,                      -- null while it is at work, and if it was killed
    reason TEXT,                        -- why it ended, one line
    digest TEXT
) STRICT;

CREATE TABLE decisions (
    id INTEGER PRIMARY KEY,             -- 1, 2, 3, ...
    experiment INTEGER NOT NULL REFERENCES experiments (id),
    decided_at REAL NOT NULL,
    action TEXT NOT NULL,               -- what to do next
    reason TEXT NOT NULL,
    gain REAL,                          -- over the parent, positive where better, null where none is estimated
    error REAL,                         -- its standard deviation
    probability REAL,                   -- that the gain is above its price
    sigma REAL,                         -- standard deviation of a run at that time
    digest TEXT
) STRICT;

CREATE INDEX decisions_of_experiment ON decisions (experiment);

CREATE TABLE audits (
    id INTEGER PRIMARY KEY,             -- 1, 2, 3, ...
    kind TEXT NOT NULL CHECK (kind IN ('holdout', 'ablation', 'transfer')),
    champion INTEGER NOT NULL REFERENCES experiments (id),
    settings TEXT NOT NULL,             -- JSON: what was asked for
    began_at REAL NOT NULL,
    ended_at REAL,                      -- null while it is not over
    findings TEXT,                      -- JSON
    digest TEXT
) STRICT;

CREATE TABLE audit_trials (
    id INTEGER PRIMARY KEY,             -- 1, 2, 3, ...
    audit INTEGER NOT NULL REFERENCES audits (id),
    subject TEXT NOT NULL,              -- what was measured, such as "champion" or "without 7"
    seed INTEGER NOT NULL,
    started_at REAL NOT NULL,
    finished_at REAL,                   -- null while it runs
    status TEXT,
    value REAL,
    holdout REAL,                       -- the score on the holdout, where it was read
    metrics TEXT,                       -- JSON
    error TEXT,
    source TEXT NOT NULL,
    digest TEXT
) STRICT;

CREATE INDEX audit_trials_of_audit ON audit_trials (audit);

CREATE TABLE snapshot_events (
    id INTEGER PRIMARY KEY,             -- 1, 2, 3, ...
    trial INTEGER NOT NULL REFERENCES trials (id),
    event TEXT NOT NULL CHECK (event IN ('expired', 'moved', 'retrained')),
    happened_at REAL NOT NULL,
    place TEXT,                         -- where it was moved to
    value REAL,                         -- what the trial gave when it was trained again
    metrics TEXT,                       -- JSON, of the same
    digest TEXT
) STRICT;

CREATE INDEX snapshot_events_of_trial ON snapshot_events (trial)
"""
SCHEMA_VERSION = 6  # PRAGMA user_version; others are refused


@dataclass(frozen=True)
class SealedTable:
    """A table whose rows are sealed.

    Attributes:
      name: of the table.
      first: the number of its first row.
      concluded: the column that a concluded row has filled.
    """

    name: str
    first: int
    concluded: str


SEALED_TABLES = (
    SealedTable("experiments", 0, "status"),
    SealedTable("trials", 1, "status"),
    SealedTable("sessions", 1, "ended_at"),
    SealedTable("decisions", 1, "decided_at"),
    SealedTable("audits", 1, "ended_at"),
    SealedTable("audit_trials", 1, "status"),
    SealedTable("snapshot_events", 1, "happened_at"),
)
