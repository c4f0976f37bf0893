"""Made-up runs that pages are shown of: the ledger takes them for real ones."""

from contextlib import closing

from ledgers import substance
from nights import NightWriter, write_night

from autoresearch_jax.engine.briefs import read_loss_file
from autoresearch_jax.engine.certifying import certificates
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import Kind
from autoresearch_jax.report.summary import summarize_run
from autoresearch_jax.types import Status

COUNT = 150


def test_a_run_has_all_that_can_become_of_an_experiment(tmp_path):
    folder = write_night(tmp_path / "night", COUNT, seed=2, audited=True)
    with closing(Ledger.open_to_read(folder.ledger)) as ledger:
        rows, summary = ledger.experiments(), summarize_run(ledger, folder)
        assert len(rows) == COUNT
        assert {row.status for row in rows} == set(Status)
        assert {row.kind for row in rows} == {Kind.BASELINE, Kind.PROPOSAL, Kind.REVERT}
        assert summary.champion_score is not None
        assert certificates(ledger)
        assert summary.dollars > 0
        assert summary.holdout_readings == 1
        assert len({ledger.source(row.id) for row in rows}) > COUNT / 2
        assert read_loss_file(folder.log_dir(summary.champion.id) / "loss.csv")
    assert folder.results.read_text().count("\n") == COUNT + 1


def test_equal_seeds_write_equal_runs_and_a_run_goes_on_as_it_would_have(tmp_path):
    with NightWriter(tmp_path / "one") as one, NightWriter(tmp_path / "two") as two:
        one.write(30)
        two.write(20)
        two.save()
        two.write(30)
        one.save()
        assert substance(one.ledger) == substance(two.ledger)


def test_an_experiment_can_be_left_open(tmp_path):
    with NightWriter(tmp_path / "night") as night:
        night.write(5)
        night.save()
        trial = night.begin()
        assert [one.id for one in night.ledger.open_trials()] == [trial.id]
        night.finish(trial)
        assert night.ledger.open_experiments() == []
