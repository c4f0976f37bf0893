from autoresearch_jax.report.diffs import MOST_ROWS, compare, unified

BEFORE = "".join(f"line {number}\n" for number in range(30))


def test_changed_lines_stand_beside_each_other_with_three_lines_around_them() -> None:
    found = compare(BEFORE, BEFORE.replace("line 10\n", "line ten\nand a half\n"))
    assert (found.added, found.removed, found.left_out) == (2, 1, 0)
    assert [row.old for row in found.rows][:4] == ["line 7", "line 8", "line 9", "line 10"]
    changed = [(row.old_number, row.old, row.new_number, row.new) for row in found.rows if row.is_changed]
    assert changed == [(11, "line 10", 11, "line ten"), (None, None, 12, "and a half")]
    assert len(found.rows) == 8


def test_lines_that_are_left_out_between_changes_are_a_gap() -> None:
    found = compare(BEFORE, BEFORE.replace("line 2\n", "").replace("line 25\n", "line 25 \n"))
    assert sum(row.is_gap for row in found.rows) == 1
    assert [row.old for row in found.rows if row.is_changed] == ["line 2", "line 25"]


def test_a_long_change_is_cut_and_says_so() -> None:
    found = compare("", "x\n" * (MOST_ROWS + 7))
    assert len(found.rows) == MOST_ROWS
    assert found.left_out == 7
    assert found.added == MOST_ROWS + 7


def test_a_unified_diff_names_the_file() -> None:
    assert unified("a\n", "b\n", "train_lib.py").splitlines() == [
        *("--- a/train_lib.py", "+++ b/train_lib.py", "@@ -1 +1 @@", "-a", "+b")
    ]
