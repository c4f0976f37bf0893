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
SINGLE = (1, 1, 1)
GROUPS = [
    pytest.param([(4, 2, 2)], id="both axes and micro-batches"),
    pytest.param([(8, 1, 1), (4, 2, 1), (1, 8, 1)], id="others", marks=pytest.mark.slow),
]
SMALL_BYTES = 6000  # scalars, counts and value gates, which are not cut


@pytest.fixture(scope="module", params=GROUPS)
def reports(request: pytest.FixtureRequest) -> dict[tuple[int, ...], dict[str, Any]]:
    """The reports of ten steps, by (data, model, micro-batches)."""
    words = [",".join(map(str, mesh)) for mesh in (SINGLE, *request.param)]
    done = subprocess.run(
        [sys.executable, str(TESTS / "mesh_training.py"), *words],
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return {tuple(report["mesh"]): report for report in json.loads(done.stdout)}


def test_ten_steps_give_the_losses_of_one_device(reports: dict) -> None:
    for mesh, report in reports.items():
        np.testing.assert_allclose(report["losses"], reports[SINGLE]["losses"], rtol=1e-4, err_msg=str(mesh))
        assert len(report["losses"]) == 10
        assert report["losses"][-1] < report["losses"][0] - 1
        assert report["moments_error"] < 1, mesh  # within 0.1 %, or 1e-6


def test_each_device_holds_its_share(reports: dict) -> None:
    for mesh, report in reports.items():
        assert report["as_told"], mesh
        assert report["donated"], mesh
        assert report["rows_per_device"] == 8 // mesh[0]
        devices = mesh[0] * mesh[1]
        for part, held in report["bytes"].items():
            assert held["all"] > 40 * SMALL_BYTES
            assert held["all"] / devices <= held["device"] <= held["all"] / devices + SMALL_BYTES, (mesh, part)


@pytest.mark.slow
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
