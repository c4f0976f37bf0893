"""A trial of the language-model task that is stopped above a ceiling."""

from pathlib import Path

import pytest
from lm_trials import MakeTask

from autoresearch_jax.tasks.lm.data.dataset import Dataset
from autoresearch_jax.types import CURVE_POINTS, LOSSES, Budget, Ceiling, Measurement, Status, read_curve

SOURCE = (Path(__file__).parents[2] / "tiny_train_lib.py").read_text()
STEPS = 40


def measure(make_task: MakeTask, folder: Path, *ceilings: Ceiling, source: str = SOURCE) -> Measurement:
    folder.mkdir()
    task = make_task(Budget(steps=STEPS))
    candidate = task.prepare(source, folder)
    return task.measure(candidate, seed=1, log_dir=folder, snapshot_dir=folder / "snapshot", stop_above=ceilings)


def test_above_a_ceiling_training_stops_and_below_it_changes_nothing(make_task: MakeTask, tmp_path: Path) -> None:
    free = measure(make_task, tmp_path / "free")
    curve = read_curve(free.metrics[LOSSES])
    assert len(curve) == CURVE_POINTS
    below = measure(make_task, tmp_path / "below", Ceiling(6, curve[5] + 1e-4))
    assert (below.status, below.value, below.metrics[LOSSES]) == (Status.OK, free.value, free.metrics[LOSSES])
    above = measure(make_task, tmp_path / "above", Ceiling(6, curve[5] - 1e-4), Ceiling(9, 0.0))
    assert (above.status, above.value, above.snapshot) == (Status.PRUNED, None, None)
    assert above.error == f"stopped at 30% of the budget: its loss was {curve[5]:.4g}"
    assert read_curve(above.metrics[LOSSES]) == curve[:6]
    assert above.metrics["num_steps"] <= 6 * STEPS // CURVE_POINTS + 1, "no step is begun any more"
    assert not (tmp_path / "above" / "snapshot").exists()
    assert len((tmp_path / "above" / "loss.csv").read_text().splitlines()) == 1 + 6 * STEPS // CURVE_POINTS


def test_losses_are_bits_per_byte_whatever_the_vocabulary(
    make_task: MakeTask, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    untrained = SOURCE.replace("LEARNING_RATE = 10.0", "LEARNING_RATE = 0.0")
    for size in tiny_dataset.vocab_sizes:
        source = untrained.replace("VOCAB_SIZE = 256", f"VOCAB_SIZE = {size}")
        found = measure(make_task, tmp_path / str(size), source=source)
        assert found.value is not None
        assert read_curve(found.metrics[LOSSES])[-1] == pytest.approx(found.value, rel=0.1)
