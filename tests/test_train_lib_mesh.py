"""train_lib.py on eight devices: it trains as on one, and each holds its share of the state and of the batch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from train_lib_source import tiny_source_text

from autoresearch_jax.cli import main
from autoresearch_jax.tasks.lm.data.dataset import MANIFEST, Dataset

TESTS = Path(__file__).parent
MESHES = [(8, 1, 1), (4, 2, 1), (1, 8, 1), (4, 2, 2)]
SMALL_BYTES = 6000  # scalars, counts and value gates, which nobody cuts


@pytest.fixture(scope="module")
def reports() -> dict[tuple[int, ...], dict[str, Any]]:
    """What became of ten steps, by (data, model, micro-batches)."""
    done = subprocess.run(
        [sys.executable, str(TESTS / "mesh_training.py")],
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return {tuple(report["mesh"]): report for report in json.loads(done.stdout)}


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_ten_steps_give_the_losses_of_one_device(mesh: tuple[int, ...], reports: dict) -> None:
    single, ours = reports[1, 1, 1], reports[mesh]
    np.testing.assert_allclose(ours["losses"], single["losses"], rtol=1e-4)
    assert len(ours["losses"]) == 10
    assert ours["losses"][-1] < ours["losses"][0] - 1
    assert ours["moments_error"] < 1  # within 0.1 %, or 1e-6


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_each_device_holds_its_share(mesh: tuple[int, ...], reports: dict) -> None:
    report = reports[mesh]
    assert report["as_told"]
    assert report["donated"]
    assert report["rows_per_device"] == 8 // mesh[0]
    for part, held in report["bytes"].items():
        assert held["all"] > 40 * SMALL_BYTES
        assert held["all"] / 8 <= held["device"] <= held["all"] / 8 + SMALL_BYTES, part


def test_a_trial_on_a_mesh_has_the_score_of_one_device(
    tiny_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    editable = tmp_path / "train_lib.py"
    # at the start some gradients are zero but for rounding, which Adam blows up where its epsilon is smaller still
    editable.write_text(tiny_source_text(ASPECT_RATIO=32, MUON_ITERATIONS=1, ADAM_EPSILON=1e-4))
    scores = []
    for flags in ([], ["--mesh=data=4,model=2"]):
        status = main(
            [
                "trial",
                "--platform=cpu",
                f"--corpus={tiny_dataset.manifest.corpus}",
                f"--data_dir={tiny_dataset.folder.parent}",
                "--sequence_length=32",
                "--vocab_sizes=256,320",
                f"--editable={editable}",
                f"--run_dir={tmp_path / 'runs'}",
                f"--compile_cache={tmp_path / 'cache'}",
                "--budget_steps=20",
                "--format=json",
                *flags,
            ]
        )
        summary = json.loads(capsys.readouterr().out)
        assert status == 0, summary
        manifest = json.loads((Path(summary["snapshot"]) / MANIFEST).read_text())
        assert manifest["metrics"]["num_devices"] == (8 if flags else 1)
        scores.append(summary["val_bpb"])
    assert scores[1] == pytest.approx(scores[0], rel=1e-4)
    assert scores[0] < 5  # it learnt: eight bits a byte is what knows nothing
