"""Git as users have configured it: what a run writes and reads does not depend on it."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import SOURCE

from autoresearch_jax.engine.git import Git
from autoresearch_jax.engine.workspace import Workspace, WorkspaceError, made_up_run

RunGit = Callable[..., str]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12345\n".format("4d" * 32)


def workspace(folder: Path, name: str = "train_lib.py", **constants: float) -> Workspace:
    return Workspace.of(folder / name, "night", folder / "runs/night/workspace", os.environ, constants)


def try_commit(editable: Path) -> None:
    with made_up_run(editable, os.environ, whole=False) as place:
        assert [path.name for path in place.folder.rglob("*.py")] == ["train_lib.py"]


def keep_one(place: Workspace) -> str:
    """A commit that is kept as a run keeps it."""
    commit = place.commit("LR = 1\n", place.baseline().commit, "message", 1000.0)
    place.keep(commit, None)
    return commit


@pytest.fixture
def with_lfs(repo: Path, run_git: RunGit) -> Path:
    """A repository with LFS content, configured as `git lfs install` does it, on a machine without git-lfs."""
    (repo / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    (repo / "weights.bin").write_text(POINTER)
    run_git(repo, "add", ".gitattributes", "weights.bin")
    run_git(repo, "commit", "-qm", "weights")
    for name, value in {
        "clean": "no-git-lfs clean -- %f",
        "smudge": "no-git-lfs smudge -- %f",
        "process": "no-git-lfs filter-process",
        "required": "true",
    }.items():
        run_git(repo, "config", f"filter.lfs.{name}", value)
    return repo


def test_a_worktree_needs_no_filter_and_has_no_lfs_content(with_lfs: Path, tmp_path: Path) -> None:
    refused = ["git", "worktree", "add", "--detach", str(tmp_path / "plain")]
    assert subprocess.run(refused, cwd=with_lfs, capture_output=True).returncode != 0, "as git does by itself"
    try_commit(with_lfs / "train_lib.py")
    place = workspace(with_lfs)
    keep_one(place)
    copy = tmp_path / "copy"
    copy.mkdir()
    place.copy_files(copy)
    for folder in (place.folder, copy):
        assert (folder / "weights.bin").read_text() == POINTER
        assert (folder / "train_lib.py").read_text() == "LR = 1\n"


def test_a_training_file_that_lfs_keeps_is_refused(repo: Path, run_git: RunGit) -> None:
    (repo / "train_lib.py").write_text(POINTER)
    run_git(repo, "commit", "-qam", "tracked")
    with pytest.raises(WorkspaceError, match=r"train_lib.py is kept by Git LFS, .*: run git lfs untrack train_lib.py"):
        workspace(repo).baseline()


@pytest.mark.parametrize(
    ("settings", "variables", "author", "committer"),
    [
        ({"user.name": "", "user.email": "a@b"}, {}, "autoresearch <a@b>", "autoresearch <a@b>"),
        ({}, {"GIT_AUTHOR_NAME": ""}, "autoresearch <researcher@example.org>", "Researcher <researcher@example.org>"),
    ],
)
def test_an_identity_that_git_does_not_take_is_replaced(
    repo: Path,
    run_git: RunGit,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    variables: dict[str, str],
    author: str,
    committer: str,
) -> None:
    for name, value in settings.items():
        run_git(repo, "config", name, value)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    try_commit(repo / "train_lib.py")
    commit = keep_one(workspace(repo))
    header = [line.partition(" ") for line in run_git(repo, "cat-file", "commit", commit).splitlines()[:4]]
    said = {name: words.rpartition(">")[0] + ">" for name, _, words in header}
    assert (said["author"], said["committer"]) == (author, committer)


def test_what_was_tried_is_gone(repo: Path, run_git: RunGit) -> None:
    refs = run_git(repo, "for-each-ref")
    try_commit(repo / "train_lib.py")
    assert run_git(repo, "for-each-ref") == refs
    assert run_git(repo, "worktree", "list").count("\n") == 0
    (repo / ".git/worktrees").write_text("in the way")
    with pytest.raises(WorkspaceError, match=r"git worktree failed .*: make the repository of .* one that you can"):
        try_commit(repo / "train_lib.py")
    assert run_git(repo, "for-each-ref") == refs


SETTINGS = (
    *("log.showSignature=true", "color.ui=always", "core.pager=false", "core.autocrlf=true", "core.eol=crlf"),
    *("core.fsmonitor=no-such-program", "i18n.commitEncoding=ISO-8859-1", "status.short=true", "core.quotePath=true"),
    *("format.pretty=oneline", "diff.noprefix=true", "commit.gpgSign=true", "submodule.recurse=true"),
    *("worktree.guessRemote=true", "checkout.guess=true", "status.showUntrackedFiles=all"),
)


def test_settings_change_nothing(repo: Path, run_git: RunGit, monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in SETTINGS:
        run_git(repo, "config", *setting.split("="))
    for variable in ("GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS"):
        monkeypatch.setenv(variable, "1")
    place = workspace(repo, LR=0.25)
    start = place.baseline()
    assert start.source == SOURCE.replace("LR = 0.5", "LR = 0.25")
    head = run_git(repo, "rev-parse", "HEAD")
    stamp = subprocess.check_output(["git", "log", "-1", "--no-show-signature", "--format=%ct"], cwd=repo, text=True)
    assert Git(repo, os.environ).commit_date(head) == float(stamp.strip().removeprefix("\x1b[m"))
    commit = place.commit(start.source + "# ü\n", start.commit, "größer\n", 1000.0)
    place.keep(commit, None)
    assert (place.folder / "train_lib.py").read_bytes().decode() == start.source + "# ü\n"
    body = subprocess.check_output(["git", "cat-file", "commit", commit], cwd=repo)
    assert body.endswith("größer\n".encode())
    assert b"encoding" not in body


def test_a_worktree_that_git_knows_by_a_relative_path(repo: Path) -> None:
    """As git 2.48 writes it with worktree.useRelativePaths=true."""
    place = workspace(repo)
    keep_one(place)
    known = repo / ".git/worktrees/workspace/gitdir"
    known.write_text(f"{os.path.relpath(place.folder / '.git', known.parent)}\n")
    keep_one(place)


@pytest.mark.parametrize("kind", ["linked worktree", "submodule", "sparse", "sha256", "shallow"])
def test_repositories_of_other_kinds(repo: Path, run_git: RunGit, tmp_path: Path, kind: str) -> None:
    other = tmp_path / "other"
    match kind:
        case "linked worktree":
            run_git(repo, "worktree", "add", "-q", "-b", "mine", str(other))
        case "submodule":
            run_git(tmp_path, "init", "-q", "super")
            run_git(
                tmp_path / "super", "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(repo), "s"
            )
            other = tmp_path / "super/s"
        case "sparse":
            run_git(tmp_path, "clone", "-q", "--sparse", str(repo), str(other))
        case "sha256":
            run_git(tmp_path, "init", "-q", "--object-format=sha256", str(other))
            (other / "train_lib.py").write_text(SOURCE)
            run_git(other, "add", ".")
            run_git(other, "commit", "-qm", "start")
        case "shallow":
            run_git(tmp_path, "clone", "-q", "--depth=1", f"file://{repo}", str(other))
    try_commit(other / "train_lib.py")
    place = workspace(other)
    keep_one(place)
    keep_one(place)
    assert (place.folder / "train_lib.py").read_text() == "LR = 1\n"


def test_a_clone_with_windows_line_ends(repo: Path, run_git: RunGit, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "-c", "core.autocrlf=true", "clone", "-q", str(repo), str(clone)], check=True)
    run_git(clone, "config", "core.autocrlf", "true")
    assert b"\r\n" in (clone / "train_lib.py").read_bytes()
    place = workspace(clone)
    assert place.baseline().source == SOURCE
    keep_one(place)
    assert (place.folder / "program.md").read_bytes() == (repo / "program.md").read_bytes()
    assert run_git(place.folder, "status", "--porcelain") == "", "nor is anything changed for the user's git"


@pytest.mark.parametrize("name", [":(top)[x]*", "new\nline"])
def test_folders_of_any_name(repo: Path, run_git: RunGit, tmp_path: Path, name: str) -> None:
    moved = repo.rename(tmp_path / name)
    (moved / name).mkdir()
    (moved / name / "train_lib.py").write_text(SOURCE)
    run_git(moved, "--literal-pathspecs", "add", "--", f"{name}/train_lib.py")
    run_git(moved, "commit", "-qm", "odd")
    place = workspace(moved, f"{name}/train_lib.py", LR=0.25)
    start = place.baseline()
    assert start.source.count("LR = 0.25") == 1
    try_commit(moved / name / "train_lib.py")
    commit = place.commit("LR = 1\n", start.commit, "m", 0)
    place.keep(commit, start.commit)
    place.keep(commit, start.commit)
    assert (place.folder / name / "train_lib.py").read_text() == "LR = 1\n"
    (moved / name / "train_lib.py").write_text("LR = 2\n")
    with pytest.raises(WorkspaceError, match="not committed"):
        workspace(moved, f"{name}/train_lib.py").baseline()
