"""What counts as a secret, and that nothing of one is left."""

import pytest

from autoresearch_jax.proposers.redaction import REDACTED, blanks, redact, secret_values


def test_a_secret_that_begins_with_a_slash_is_none_the_less_one(tmp_path):
    here = tmp_path / "key.json"
    here.write_text("{}")
    environment = {
        "A_KEY": "/9j4AAQSkZJRgABAQ",
        "B_TOKEN": "/9j4/AAQSkZ+JRg==",
        "C_SECRET": " sesame-open\n",
        "D_KEY_FILE": str(here),
        "E_KEY_SOCKET": str(tmp_path / "not-there-yet"),
        "F_PASSWORD": " ",
        "HOME": "/sesame-closed",
    }
    assert secret_values(environment) == ("/9j4AAQSkZJRgABAQ", "/9j4/AAQSkZ+JRg==", "sesame-open")


@pytest.mark.parametrize("secrets", [("sesame-open", "sesame-open-too"), ("sesame-open-too", "sesame-open")])
def test_a_secret_that_begins_like_another_leaves_nothing_of_it(secrets):
    assert redact("a sesame-open-too b sesame-open", secrets) == f"a {REDACTED} b {REDACTED}"


def test_words_that_are_too_short_are_left():
    assert blanks(["none", "sesame-open"]) == {"sesame-open": REDACTED}
