import io
import warnings
from contextlib import closing

import numpy as np
import pytest
from matplotlib.image import imread
from nights import write_night

from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.report.history import History, read_history
from autoresearch_jax.report.picture import HEIGHT, WIDTH, progress_png, score_range


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    folder = write_night(tmp_path_factory.mktemp("runs") / "evil", 60, hostile=True)
    with closing(Ledger.open_to_read(folder.ledger)) as ledger:
        return read_history(ledger, folder)


def test_the_picture_has_its_size_and_the_colours_of_what_it_shows(history: History) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = imread(io.BytesIO(progress_png([history])), format="png")
    assert picture.shape[:2] == (HEIGHT, WIDTH)
    colours = {
        tuple(colour) for colour in np.unique((picture[..., :3] * 255).round().astype(int).reshape(-1, 3), axis=0)
    }
    assert {(0x0B, 0x5F, 0xAE), (0x00, 0x73, 0x4F), (0xB3, 0x40, 0x2A)} <= colours


def test_a_wild_score_does_not_squash_the_others(history: History) -> None:
    low, high = score_range([history])
    champions = [point.row.score for point in history.champions]
    assert low < min(champions)
    assert max(champions) < high
    assert high - low < 12 * (max(champions) - min(champions))


def test_several_runs_are_drawn_over_each_other(history: History) -> None:
    assert progress_png([history, history]) != progress_png([history])
