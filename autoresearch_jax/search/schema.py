"""Tables of a run's ledger, their version, and the way from each version to the next."""

from dataclasses import dataclass

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
-- SHA-256 of the row, written when it is concluded
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

_NOTHING_WITHOUT_A_SEAL = "-- no table changes: `Ledger.open` seals what version 1 concluded"

# What is null has no part in a row's digest, so the new columns of old rows are null and their seals hold.
_DECISIONS_AND_AUDITS = """
ALTER TABLE experiments ADD COLUMN simplification INTEGER;  -- 1 if it was kept for its shorter source alone
ALTER TABLE trials ADD COLUMN purpose TEXT CHECK (purpose = 'champion');    -- null to decide on its experiment

CREATE TABLE rulings (
    id INTEGER PRIMARY KEY,             -- 1, 2, 3, ...
    experiment INTEGER NOT NULL REFERENCES experiments (id),
    ruled_at REAL NOT NULL,
    step TEXT NOT NULL,                 -- what to do next
    reason TEXT NOT NULL,
    sigma REAL,                         -- the noise floor at that time, null without one
    degrees INTEGER,
    seed_correlation REAL,
    digest TEXT
) STRICT;

CREATE INDEX rulings_of_experiment ON rulings (experiment);

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

CREATE INDEX audit_trials_of_audit ON audit_trials (audit)
"""

_INTERRUPTIONS_AND_SNAPSHOTS = """
ALTER TABLE trials ADD COLUMN interrupted_at REAL;  -- when a signal cut it short, null again once it is taken up

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

# What makes each version of the one before it, statements apart by ";": a new ledger goes the same way.
MIGRATIONS = (
    _TABLES,
    _SEALS_AND_SESSIONS,
    _NOTHING_WITHOUT_A_SEAL,
    _DECISIONS_AND_AUDITS,
    _INTERRUPTIONS_AND_SNAPSHOTS,
)
SCHEMA_VERSION = len(MIGRATIONS)
ALL_SEALED_VERSION = 3  # from which on every concluded row has a seal, and the settings have one


@dataclass(frozen=True)
class SealedTable:
    """A table whose rows are sealed.

    Attributes:
      name: of the table.
      first: the number of its first row.
      concluded: the column that a concluded row has filled.
      since: the version of the ledger that has the table.
    """

    name: str
    first: int
    concluded: str
    since: int = 1


SEALED_TABLES = (
    SealedTable("experiments", 0, "status"),
    SealedTable("trials", 1, "status"),
    SealedTable("sessions", 1, "ended_at", since=2),
    SealedTable("rulings", 1, "ruled_at", since=4),
    SealedTable("audits", 1, "ended_at", since=4),
    SealedTable("audit_trials", 1, "status", since=4),
    SealedTable("snapshot_events", 1, "happened_at", since=5),
)
