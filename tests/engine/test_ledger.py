"""The ledger, in a file and in memory."""

import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.database import LedgerError
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import Intent, Kind
from autoresearch_jax.engine.schema import SCHEMA_VERSION
from autoresearch_jax.types import Measurement, Status

INTENT = Intent(Kind.PROPOSAL, "LR = 1\n", {"LR": 1, "BETAS": (0.9, 0.95)}, "LR up", "constants", "constants")
GOOD = Measurement(Status.OK, 0.9, 7, {"peak_memory_bytes": 5, "note": None})


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger.open(tmp_path / "new" / "ledger.db", clock=lambda: 100.0)
    yield ledger
    ledger.close()


def conclude(ledger, number, verdict=Action.DISCARD, status=Status.OK, score=0.9):
    ledger.conclude(number, status, score, verdict, "why", "abc", 1.5)
    return ledger.experiment(number)


def test_an_experiment_from_intent_to_conclusion(ledger, tmp_path):
    row = ledger.begin_experiment(INTENT)
    assert (row.id, row.is_open, row.created_at, row.constants) == (0, True, 100.0, INTENT.constants)
    assert ledger.open_experiments() == [row]
    trial = ledger.begin_trial(0, seed=7)
    assert (trial.id, trial.status) == (1, None)
    ledger.finish_trial(trial.id, GOOD)
    ledger.set_program(0, "hash")
    ended = conclude(ledger, 0)
    assert (ended.status, ended.score, ended.decision, ended.program_hash) == (Status.OK, 0.9, "discard", "hash")
    assert conclude(ledger, 0, Action.KEEP) == ended, "an end is final"
    assert ledger.open_experiments() == []
    again = Ledger.open(tmp_path / "new" / "ledger.db")
    assert again.experiments() == [ended]
    assert again.source(0) == "LR = 1\n"
    assert again.trials(0)[0].metrics == {"peak_memory_bytes": 5, "note": None}
    again.close()


def test_several_are_open_and_come_in_the_order_in_which_they_end(ledger, tmp_path):
    first, second, third = (ledger.begin_experiment(INTENT) for _ in range(3))
    trials = [ledger.begin_trial(row.id, seed=7) for row in (first, second, second)]
    for row in (first, third):
        ledger.set_program(row.id, "one program")
    ledger.finish_trial(trials[2].id, GOOD)
    conclude(ledger, third.id, score=0.5)
    with ledger.transaction():
        ledger.finish_trial(trials[0].id, GOOD)
        conclude(ledger, first.id, status=Status.DUPLICATE, score=0.5)
        assert [row.id for row in ledger.experiments()] == [2, 0, 1], "before it is written, too"
    assert ledger.next_number() == 3
    with closing(Ledger.open(tmp_path / "new" / "ledger.db")) as again:
        for seen in (ledger, again):
            assert [row.id for row in seen.experiments()] == [2, 0, 1]
            assert [row.ended for row in seen.experiments()] == [1, 2, None]
            assert [trial.id for trial in seen.trials()] == [3, 1, 2]
            assert [row.id for row in seen.open_experiments()] == [1]
            assert seen.scored_twin("one program", before=first.id).id == third.id, "it ended before, and began after"
            assert seen.scored_twin("one program", before=third.id) is None


def test_a_reader_sees_one_state_while_the_run_goes_on(ledger, tmp_path):
    conclude(ledger, ledger.begin_experiment(INTENT).id)
    with closing(Ledger.open_to_read(tmp_path / "new" / "ledger.db")) as reader:
        with reader.as_of_now():
            assert len(reader.experiments()) == 1
            ledger.begin_trial(ledger.begin_experiment(INTENT).id, seed=7)
            assert len(reader.experiments()) == 1
            assert reader.trials() == []
            assert not reader.may_be_undone()
        assert len(reader.experiments()) == 2
        assert len(reader.trials()) == 1


def test_a_transaction_is_whole_or_nothing(ledger):
    def interrupted():
        with ledger.transaction():
            ledger.begin_experiment(INTENT)
            ledger.begin_trial(0, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ledger.experiments() == []


def test_a_twin_is_an_earlier_scored_experiment_of_the_search(ledger):
    for number, status in enumerate((Status.CRASH, Status.OK, Status.OK)):
        ledger.begin_experiment(INTENT)
        ledger.set_program(number, "same")
        conclude(ledger, number, status=status, score=0.5 if status is Status.OK else None)
    assert ledger.scored_twin("same", before=9).id == 1
    assert ledger.scored_twin("same", before=1) is None
    assert ledger.scored_twin("other", before=9) is None


def test_a_trial_by_hand_is_recorded_and_never_a_part_of_the_search(ledger):
    number = ledger.record_trial("LR = 3\n", GOOD, "LR=3", "print")
    row = ledger.experiment(number)
    assert (row.kind, row.score, row.decision, row.hypothesis) == (Kind.TRIAL, 0.9, None, "LR=3")
    assert ledger.open_experiments() == []
    crash = Measurement(Status.CRASH, None, 7, error="boom")
    assert ledger.experiment(ledger.record_trial("x = = 1", crash, "", "print")).reason == "boom"


def test_two_processes_write_to_one_ledger(ledger, tmp_path):
    def write():
        other = Ledger.open(tmp_path / "new" / "ledger.db")
        for _ in range(20):
            other.record_trial("LR = 3\n", GOOD, "", "print")
        other.close()

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row.id for row in ledger.experiments()] == list(range(40))


def test_figures_that_are_not_numbers_do_not_spoil_the_ledger(ledger):
    metrics = {"train_loss": float("nan"), "mfu_percent": float("inf"), "peak_memory_bytes": 7}
    ledger.record_trial("LR = 3\n", Measurement(Status.NONFINITE, None, 0, metrics), "", "print")
    assert ledger.trials()[0].metrics == {"train_loss": None, "mfu_percent": None, "peak_memory_bytes": 7}


def test_a_newer_ledger_is_refused(tmp_path):
    path = tmp_path / "ledger.db"
    Ledger.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    words = rf"ledger.db: the ledger has version 99 and this autoresearch reads {SCHEMA_VERSION}: "
    for opened in (Ledger.open, Ledger.open_to_read):
        with pytest.raises(LedgerError, match=words):
            opened(path)


def test_what_is_no_ledger_is_refused(tmp_path):
    path = tmp_path / "ledger.db"
    with pytest.raises(LedgerError, match=r"ledger.db: no ledger there; check --tag and --run_dir"):
        Ledger.open_to_read(path)
    path.write_text("a text of more than sixteen bytes\n" * 100)
    with pytest.raises(LedgerError, match=r"ledger.db: the ledger cannot be opened: file is not a database"):
        Ledger.open(path)


def test_a_ledger_is_read_where_nothing_can_be_written(tmp_path: Path) -> None:
    """As in an archive: SQLite wants to write beside a file with a write-ahead log even to read it."""
    folder = tmp_path / "run"
    with closing(Ledger.open(folder / "ledger.db")) as ledger:
        ledger.save_settings({"metric": "loss"})
    program = (
        "import sys; from pathlib import Path; from autoresearch_jax.engine.ledger import Ledger; "
        "print(Ledger.open_to_read(Path(sys.argv[1])).settings())"
    )
    command = [sys.executable, "-c", program, str(folder / "ledger.db")]
    folder.chmod(0o555)
    if os.getuid() == 0:  # whom modes do not stop
        command = ["unshare", "--mount", "sh", "-c", 'mount --bind -o ro "$0" "$0" && exec "$@"', str(folder), *command]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    folder.chmod(0o755)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("nothing can be mounted here")
    assert done.stdout == "{'metric': 'loss'}\n", done.stderr
