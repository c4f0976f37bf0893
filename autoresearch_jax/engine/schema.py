"""The tables of a ledger."""

SCHEMA_VERSION = 14  # PRAGMA user_version; others are refused
# The source comes last in its row: reading the other columns then never touches its pages.
SCHEMA = """
CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL                 -- JSON
) STRICT;

CREATE TABLE experiments (
    id INTEGER PRIMARY KEY,             -- 0, 1, 2, ...
    kind TEXT NOT NULL CHECK (kind IN ('baseline', 'proposal', 'revert', 'trial')),
    parent INTEGER REFERENCES experiments (id),     -- the champion it was made from, or was moved to last
    parent_commit TEXT,
    proposer TEXT NOT NULL,
    hypothesis TEXT NOT NULL,
    category TEXT NOT NULL,
    cost_dollars REAL NOT NULL,
    constants TEXT NOT NULL,            -- JSON: top-level constants of the source
    created_at REAL NOT NULL,           -- seconds since 1970
    without TEXT,                       -- JSON: experiments whose edits a revert takes out
    finding TEXT,                       -- id of the finding that it tries
    adopted_from TEXT,                  -- name of the peer whose finding or champion it tries
    used TEXT,                          -- JSON: ids of the findings that its proposer says it used
    why TEXT,                           -- its proposer's opinion why it should work
    program_hash TEXT,
    ended INTEGER UNIQUE,               -- 1, 2, 3, ... in the order in which they ended, null until then like the rest
    status TEXT,
    score REAL,
    decision TEXT CHECK (decision IN ('keep', 'discard')),
    reason TEXT,
    "commit" TEXT,
    seconds REAL,                       -- spent on it by the process that ended it, since the last one ended
    price REAL,                         -- what its gain had to be above, in the metric's unit
    simplification INTEGER,             -- 1 if it was kept for its shorter source alone
    source TEXT NOT NULL
) STRICT;

CREATE TABLE moves (
    id INTEGER PRIMARY KEY,             -- 1, 2, 3, ...: experiments whose parent was champion no more
    experiment INTEGER NOT NULL REFERENCES experiments (id),
    moved_at REAL NOT NULL,             -- seconds since 1970, what follows is as it was before
    parent INTEGER NOT NULL REFERENCES experiments (id),
    parent_commit TEXT,
    constants TEXT NOT NULL,
    program_hash TEXT,
    source TEXT NOT NULL
) STRICT;

CREATE TABLE trials (
    id INTEGER PRIMARY KEY,             -- 1, 2, 3, ...
    experiment INTEGER NOT NULL REFERENCES experiments (id),
    parent INTEGER REFERENCES experiments (id),     -- what its experiment was made from then, see moves
    seed INTEGER NOT NULL,
    purpose TEXT NOT NULL CHECK (purpose IN ('candidate', 'champion', 'certify', 'audit')),
    split TEXT,                         -- 'val' or 'holdout' for an audit's trial, which alone has what follows
    audit INTEGER,                      -- number of the audit: 1, 2, 3, ...
    question TEXT,                      -- JSON: what it asks
    subject TEXT,                       -- the text that was measured, such as "champion" or "without 7"
    answered_at REAL,                   -- null until the audit is over
    started_at REAL NOT NULL,
    interrupted_at REAL,                -- when a signal cut it short, null again once it is taken up
    finished_at REAL,                   -- null while it runs
    ended INTEGER UNIQUE,               -- 1, 2, 3, ... in the order in which they ended
    status TEXT,
    value REAL,
    metrics TEXT,                       -- JSON
    snapshot TEXT,
    error TEXT,
    items TEXT                          -- JSON: the score on each test item, of a task that has such
) STRICT;

CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,             -- 1, 2, 3, ...: the processes that worked on the run
    began_at REAL NOT NULL,
    ended_at REAL,                      -- null while it is at work, and if it was killed
    reason TEXT,                        -- why it ended, one line
    certifies TEXT                      -- JSON: what its certification goes on from, see `Ledger.left_certification`
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
    price REAL NOT NULL                 -- what the gain has to be above, in the metric's unit
) STRICT;

CREATE INDEX decisions_of_experiment ON decisions (experiment);

CREATE TABLE inbox (
    id INTEGER PRIMARY KEY,             -- 1, 2, 3, ...: texts that were handed in, see engine/inbox.py
    created_at REAL NOT NULL,
    hypothesis TEXT NOT NULL,
    category TEXT NOT NULL,
    why TEXT NOT NULL,                  -- its author's opinion why it should work, empty if there is none
    experiment INTEGER REFERENCES experiments (id),     -- null while it waits
    base TEXT,                          -- the text that it is a change of, null if it is measured as it stands
    adopted_from TEXT,                  -- name of the peer whose champion it is
    source TEXT NOT NULL
) STRICT;

CREATE TABLE snapshot_events (
    id INTEGER PRIMARY KEY,             -- 1, 2, 3, ...
    trial INTEGER NOT NULL REFERENCES trials (id),
    event TEXT NOT NULL CHECK (event IN ('expired', 'moved')),
    happened_at REAL NOT NULL,
    place TEXT                          -- where it was moved to
) STRICT
"""
