"""What people read: the table, the figures, the line of an experiment."""

import io
import json
from contextlib import closing

import pytest
from terminals import terminal

from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.recorder import results_text
from autoresearch_jax.engine.records import Intent, Kind
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.report.summary import experiments_as_json, summarize_run
from autoresearch_jax.report.tables import format_experiment, format_lines, print_experiments, print_lines
from autoresearch_jax.report.why import explain, print_explanation
from autoresearch_jax.types import Measurement, Metric, Status

LONG = "a hypothesis of many words " * 8 + "and an end"


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger.open(tmp_path / "ledger.db", clock=lambda: 0.0)
    ledger.save_settings({"metric": "val_bpb", "direction": "minimize"})
    ends = [
        (Kind.BASELINE, "baseline", (Status.OK, 1.5, Action.KEEP, "the baseline", "a" * 40, 2.0)),
        (Kind.PROPOSAL, LONG, (Status.OK, 1.2, Action.KEEP, "better", "b" * 40, 2.0)),
        (Kind.PROPOSAL, "[red]LR[/red]", (Status.CRASH, None, Action.DISCARD, "boom", "c" * 40, 0.5)),
    ]
    for kind, hypothesis, conclusion in ends:
        proposer = "gemini" if conclusion[1] is None else ""
        row = ledger.begin_experiment(
            Intent(
                kind,
                "LR = 1\n",
                {"LR": 1},
                hypothesis,
                category=proposer and "optimizer",
                proposer=proposer,
                cost_dollars=0.25,
            )
        )
        if conclusion[1] is not None:
            trial = ledger.begin_trial(row.id, 0)
            ledger.finish_trial(trial.id, Measurement(Status.OK, conclusion[1], 0))
        ledger.set_program(row.id, f"program {row.id}")
        ledger.conclude(row.id, *conclusion)
    ledger.begin_experiment(Intent(Kind.PROPOSAL, "LR = 2\n", {}, "LR 1 -> 2"))
    yield ledger
    ledger.close()


def test_figures_of_a_run(ledger):
    ledger.record_trial("LR = 9\n", Measurement(Status.OK, 0.1, 0), "by hand", "print")
    assert summarize_run(ledger).lines() == {
        "experiments": 2,
        "crash": 1,
        "keep": 1,
        "seconds": 4.5,
        "dollars": 0.75,
        "baseline_val_bpb": 1.5,
        "champion_val_bpb": "1.200000",
        "gain": 0.3,
        "gain_percent": 20.0,
        "noise_floor": None,
        "gain_sigma": None,
        "champion_runs": 1,
        "certified": 0,
        "reverted": 0,
        "holdout_readings": 0,
        "champion_experiment": 1,
        "champion_commit": "b" * 40,
    }
    assert [row.hypothesis for row in summarize_run(ledger).current] == ["LR 1 -> 2"]


def test_the_share_of_the_machine_over_a_night(ledger):
    def run(experiment, metrics):
        trial = ledger.begin_trial(experiment, 0)
        ledger.finish_trial(trial.id, Measurement(Status.OK, 1.0, 0, metrics))

    assert summarize_run(ledger).attended_share is None
    run(0, {"wall_seconds": 10.0, "attended_share": 1.0})
    run(1, {"wall_seconds": 30.0, "attended_share": 0.5})
    run(2, {"wall_seconds": 99.0})  # by the wall clock
    ledger.record_trial(
        "LR = 9\n", Measurement(Status.OK, 0.1, 0, {"wall_seconds": 9.0, "attended_share": 0.1}), "", ""
    )
    assert summarize_run(ledger).lines()["attended_share"] == 0.62
    shares = [explain(ledger, number, at_work=False)["trials"][-1]["attended_share"] for number in range(3)]
    assert shares == [1.0, 0.5, None]
    for number, words in enumerate((["1.000000"], ["1.000000 (50% attended)"], ["1.000000"])):
        stream = io.StringIO()
        print_explanation(explain(ledger, number, at_work=False), stream)
        (runs,) = (line for line in stream.getvalue().splitlines() if line.startswith("runs:"))
        assert runs.split(":")[1].strip().split(", ")[-1:] == words


def test_an_empty_ledger_has_no_figures_rather_than_zeros(tmp_path):
    lines = summarize_run(Ledger.open(tmp_path / "empty.db")).lines()
    assert lines["gain"] is None
    assert format_lines({"gain": lines["gain"]}) == "gain:                null"


def test_a_table_in_a_file_is_whole_and_plain(ledger):
    stream = io.StringIO()
    print_experiments(ledger, Metric("val_bpb"), stream, at_work=True)
    lines = stream.getvalue().splitlines()
    assert lines[0].split() == [
        "experiment",
        "outcome",
        "val_bpb",
        "seconds",
        "proposer",
        "category",
        *("hypothesis", "reason"),
    ]
    assert lines[2].split(maxsplit=4) == ["1", "keep", "1.200000", "2.0", f"{LONG}  better"]
    assert lines[3].split() == ["2", "crash", "0.5", "gemini", "optimizer", "[red]LR[/red]", "boom"]
    assert lines[3].index("boom") == lines[1].index("the baseline") == lines[0].index("reason")
    assert lines[4].split(maxsplit=2) == ["3", "running", "LR 1 -> 2"]
    assert "\x1b" not in stream.getvalue()
    stream = io.StringIO()
    print_experiments(ledger, Metric("val_bpb"), stream, at_work=False)
    assert stream.getvalue().splitlines()[4].split(maxsplit=2) == ["3", "interrupted", "LR 1 -> 2"]


REASON = "val_bpb 1.2 in 1 run, the champion's 1.5 +- 0.1, 0.3 better: " + "and so on " * 20
WHY = "the answer is not JSON: " + "one thing and another " * 9


@pytest.mark.parametrize("columns", [80, 200])
def test_on_a_terminal_reasons_are_cut_but_those_of_what_came_to_nothing(tmp_path, columns, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    with closing(Ledger.open(tmp_path / "ledger.db")) as ledger, terminal(columns) as screen:
        for hypothesis, status, reason in (("a\x1b[2Jb", Status.OK, REASON), ("no proposal", Status.REJECTED, WHY)):
            category = "no proposal" if status is Status.REJECTED else "attention"
            row = ledger.begin_experiment(
                Intent(Kind.PROPOSAL, "LR = 1\n", {}, hypothesis, category=category, proposer="gemini", parent=0)
            )
            if status is Status.OK:
                ledger.finish_trial(ledger.begin_trial(row.id, 0).id, Measurement(Status.OK, 1.2, 0))
            score = 1.2 if status is Status.OK else None
            ledger.conclude(row.id, status, score, Action.DISCARD, reason, None, 1.0)
        monkeypatch.setenv("COLUMNS", str(columns))
        print_experiments(ledger, Metric("val_bpb"), screen.stream)
        shown = screen.screen()
        written = screen.written
        monkeypatch.setenv("NO_COLOR", "1")
        print_experiments(ledger, Metric("val_bpb"), screen.stream)
        uncoloured = screen.read().removeprefix(written)
    assert max(map(len, shown)) <= columns
    first = " ".join(shown).split("no proposal")[0]
    assert "0.3 better" in first
    assert ("gemini, attention: " in first) == (columns < 120)
    assert "attention" in first
    assert "the champion's" not in first, "the score has a column"
    assert "…" in first
    start = next(index for index, line in enumerate(shown) if "no proposal" in line)
    at = shown[start].index("no proposal") if columns < 120 else shown[0].index("reason")
    assert WHY.strip() in " ".join(line[at:].strip() for line in shown[start:])
    assert "\x1b[2J" not in written
    assert "\x1b[33m" in written
    assert "\x1b[33m" not in uncoloured


def test_figures_are_coloured_on_a_terminal_only(monkeypatch):
    figures = {"driver": "pid 1 on box", "gain": 0.5, "x" * 25: None}
    monkeypatch.setenv("TERM", "xterm-256color")
    with terminal(20) as screen:
        print_lines(figures, screen.stream)
        assert "".join("".join(screen.screen()).split()) == "".join(format_lines(figures).split()), "nothing is cut"
        assert "\x1b[1m0.5" in screen.written
    stream = io.StringIO()
    print_lines(figures, stream)
    assert stream.getvalue() == format_lines(figures) + "\n"


def test_a_space_stands_between_any_key_and_its_value():
    assert format_lines({"seed": 1, "a" * 19: 2, "a" * 20: None}).splitlines() == [
        f"seed:{' ' * 16}1",
        f"{'a' * 19}: 2",
        f"{'a' * 20}: null",
    ]


def test_an_experiment_on_one_line(ledger):
    rows = ledger.experiments()
    assert format_experiment(rows[0]).split() == ["0", "keep", "1.500000", "2.0", "s", "baseline"]
    assert format_experiment(rows[2]).split() == ["2", "crash", "-", "0.5", "s", "[red]LR[/red]", "(boom)"]


def test_json_has_null_for_what_is_missing(ledger, tmp_path):
    crash = experiments_as_json(ledger, RunFolder(tmp_path), at_work=True)[2]
    assert (crash["outcome"], crash["score"], crash["constants"]) == ("crash", None, {"LR": 1})


def test_json_tells_where_the_snapshots_are_that_are_there(ledger, tmp_path):
    folder = RunFolder(tmp_path / "night")
    trials = []
    for name in ("here", "moved", "expired", "lost"):
        snapshot = folder.snapshots / name
        number = ledger.record_trial("LR = 3\n", Measurement(Status.OK, 0.9, 7, {}, snapshot), name, "print")
        trials.append(ledger.trials(number)[0].id)
        if name == "here":
            snapshot.mkdir(parents=True)
    ledger.move_snapshot(trials[1], "gs://bucket/night/moved")
    ledger.expire_snapshots([trials[2]])
    lines = experiments_as_json(ledger, folder, at_work=False)[-5:-1]  # an open experiment is the last one
    found = {line["hypothesis"]: line["snapshots"] for line in lines}
    here, moved = [str(folder.snapshots / "here")], ["gs://bucket/night/moved"]
    assert found == {"here": here, "moved": moved, "expired": [], "lost": []}


def test_a_refactoring_is_told_from_a_duplicate_that_was_discarded(ledger, tmp_path):
    ledger.set_program(3, "program 1")
    ledger.conclude(3, Status.DUPLICATE, 1.2, Action.KEEP, "a proven refactoring", "d" * 40, 0.5)
    row = ledger.experiment(3)
    other = ledger.begin_experiment(Intent(Kind.PROPOSAL, "LR = 3\n", {}, "as before"))
    ledger.conclude(other.id, Status.DUPLICATE, 1.2, Action.DISCARD, "no shorter", "e" * 40, 0.5)
    lines = experiments_as_json(ledger, RunFolder(tmp_path), at_work=True)[3:]
    found = [(line["outcome"], line["decision"]) for line in lines]
    assert found == [("refactoring", "keep"), ("duplicate", "discard")]
    assert format_experiment(row).split()[1] == "refactoring"
    assert [line.split("\t")[3] for line in results_text(ledger, Metric("val_bpb")).splitlines()[4:]] == [
        "keep",
        "duplicate",
    ]
    figures = summarize_run(ledger).lines()
    assert (figures["keep"], figures["refactoring"], figures["duplicate"]) == (1, 1, 1)


def test_what_was_spent_on_proposals_in_no_row_is_spent_all_the_same(ledger, tmp_path):
    folder = RunFolder(tmp_path)
    assert summarize_run(ledger, folder).dollars == summarize_run(ledger).dollars == 0.75
    for number, dollars in ((1, 0.5), (2, 0.75), (7, None)):
        exchange = {"usage": {"input_tokens": 9, "output_tokens": 2}, "seconds": 1.5, "dollars": dollars}
        (folder.llm_dir(number) / "01.json").write_text(json.dumps(exchange))
    (folder.llm_dir(2) / "02.json").write_text("{")  # being written
    (folder.llm_dir(2) / "proposal.json").write_text('{"dollars": 100}')
    assert summarize_run(ledger, folder).dollars == 1.25
