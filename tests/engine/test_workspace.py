"""Git repositories that a run cannot start from, and commits that a kill cannot double."""

import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from autoresearch_jax.engine import git as git_module
from autoresearch_jax.engine.git import Git, GitError, WorktreeError
from autoresearch_jax.engine.workspace import TagError, Workspace, WorkspaceError


def workspace(folder, tag="night", environment=None, editable="train_lib.py"):
    return Workspace.of(folder / editable, tag, folder / "runs" / tag / "workspace", environment or os.environ)


def test_the_editable_file_may_be_deep_in_the_repository_and_executable(repo, run_git):
    deep = repo / "a b" / "c"
    deep.mkdir(parents=True)
    (deep / "train_lib.py").write_text("LR = 1\n")
    (deep / "train_lib.py").chmod(0o755)
    run_git(repo, "add", "a b")
    run_git(repo, "commit", "-qm", "deep")
    place = workspace(repo, editable="a b/c/train_lib.py")
    baseline = place.baseline()
    commit = place.commit("LR = 2\n", baseline.commit, "message", 0)
    assert run_git(repo, "diff", "--name-status", baseline.commit, commit) == "M\ta b/c/train_lib.py"
    assert run_git(repo, "ls-tree", commit, "a b/c/train_lib.py").startswith("100755")


@pytest.mark.parametrize(("mark", "end"), [("", "\r\n"), ("\ufeff", "\r")])
def test_a_commit_keeps_the_byte_order_mark_and_the_line_ends_of_the_users_file(repo, run_git, mark, end):
    written = f"{mark}# a file{end}LR = 1{end}X = 'é'{end}".encode()
    (repo / "train_lib.py").write_bytes(written)
    run_git(repo, "commit", "-qam", "as tools write it")
    place = workspace(repo)
    baseline = place.baseline()
    assert baseline.source == "# a file\nLR = 1\nX = 'é'\n"
    source = baseline.source.replace("LR = 1", "LR = 2\nB = 3")
    commits = [baseline.commit]
    for text in (source, source.replace("B = 3", "B = 4"), baseline.source):
        commits.append(place.commit(text, commits[-1], "message", 0))
        assert place.source_at(commits[-1]) == text
    raw = subprocess.run(
        ["git", "cat-file", "blob", f"{commits[-1]}:train_lib.py"], cwd=repo, check=True, capture_output=True
    ).stdout
    assert raw == written
    assert end == "\r" or run_git(repo, "diff", "--numstat", *commits[:2]) == "2\t1\ttrain_lib.py"


def test_a_commit_has_all_else_as_its_own_parent_has_it(repo, run_git):
    """Whatever the names; and by turns, so that what is remembered of one parent is not taken for another's."""
    for name in ("ümlaut", "a\ttrain_lib.py", "new\nline", '"', "train_lib.py2"):
        (repo / name).write_text("odd\n")
    (repo / "link").symlink_to("nowhere")
    (repo / "run.sh").write_text("true\n")
    (repo / "run.sh").chmod(0o755)
    run_git(repo, "add", ".")
    run_git(repo, "commit", "-qm", "odd")
    place = workspace(repo)
    first = place.baseline().commit
    run_git(repo, "rm", "-q", "run.sh")
    run_git(repo, "commit", "-qm", "another")
    second = place.baseline().commit
    for parent in (first, second, first):
        commit = place.commit("LR = 1\n", parent, "message", 0)
        assert run_git(repo, "diff", "--name-status", parent, commit) == "M\ttrain_lib.py"
        assert run_git(repo, "rev-parse", f"{commit}^") == parent
        run_git(repo, "fsck", "--strict", commit)


def test_a_branch_that_someone_moved_is_not_moved_back(repo, run_git):
    place = workspace(repo)
    first = place.baseline().commit
    second = place.commit("LR = 1\n", first, "one", 0)
    third = place.commit("LR = 2\n", second, "two", 0)
    place.keep(first, None)
    run_git(repo, "update-ref", "refs/heads/autoresearch/night", third)
    with pytest.raises(
        WorkspaceError, match=rf"night was moved to {third[:10]}, the ledger's champion is {second[:10]}"
    ):
        place.keep(second, first)


def test_a_branch_from_elsewhere_is_refused(repo, run_git):
    run_git(repo, "branch", "autoresearch/night")
    with pytest.raises(WorkspaceError, match=r"^branch autoresearch/night exists already, .* another --tag, or delete"):
        workspace(repo).require_unused_branch()
    run_git(repo, "branch", "-D", "autoresearch/night")
    for blocking in ("autoresearch", "autoresearch/night/mine"):
        run_git(repo, "branch", blocking)
        with pytest.raises(WorkspaceError, match=rf"^git makes .* beside a branch {blocking}: .* -m {blocking} "):
            workspace(repo).require_unused_branch()
        run_git(repo, "branch", "-D", blocking)


def test_what_an_earlier_run_discarded_is_not_written_over(repo, run_git):
    place = workspace(repo)
    first = place.baseline().commit
    place.keep(first, None)
    place.discard(place.commit("LR = 1\n", first, "one", 0), 1)
    shutil.rmtree(repo / "runs")
    for complaint in ("branch autoresearch/night exists", "an earlier run of this tag left discarded candidates"):
        with pytest.raises(WorkspaceError, match=complaint) as caught:
            workspace(repo).require_unused_branch()
        subprocess.run(["bash", "-ce", str(caught.value).split(" with ")[1]], cwd=repo, check=True)
    workspace(repo).require_unused_branch()


def test_showing_the_champion_moves_no_other_branch(repo, run_git):
    place = workspace(repo)
    first = place.baseline().commit
    place.keep(first, None)
    run_git(repo, "tag", "autoresearch/night")  # git would take it for the branch
    run_git(place.folder, "checkout", "-q", "-b", "mine")
    run_git(place.folder, "commit", "-q", "--allow-empty", "-m", "mine")
    mine = run_git(repo, "rev-parse", "mine")
    second = place.commit("LR = 1\n", first, "one", 0)
    place.keep(second, first)
    assert run_git(repo, "rev-parse", "mine") == mine
    assert run_git(repo, "rev-parse", "refs/heads/autoresearch/night") == second
    assert (place.folder / "train_lib.py").read_text() == "LR = 1\n"


def leave_locks(repo: Path) -> list[Path]:
    """Locks of a git that was killed: of the run's branch, of a discarded candidate, and of its worktree's index."""
    names = [
        "refs/heads/autoresearch/night.lock",
        "refs/autoresearch/night/0002.lock",
        "worktrees/workspace/index.lock",
    ]
    locks = [repo / ".git" / name for name in names]
    for lock in locks:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    return locks


def test_locks_that_are_left_are_removed_and_the_run_goes_on(repo, monkeypatch):
    monkeypatch.setattr(git_module, "LOCK_SECONDS", 0.1)
    place = workspace(repo)
    first = place.baseline().commit
    place.keep(first, None)
    second = place.commit("LR = 1\n", first, "one", 0)
    locks = leave_locks(repo)
    others = [
        repo / ".git" / name for name in ("index.lock", "refs/heads/main.lock", "refs/heads/autoresearch/day.lock")
    ]
    for other in others:
        other.touch()
    with pytest.raises(GitError, match="lock"):
        place.keep(second, first)
    place.free_locks()
    assert [path.exists() for path in (*locks, *others)] == [False] * 3 + [True] * 3, "the user's own are left alone"
    place.keep(second, first)
    place.discard(second, 2)
    assert (place.folder / "train_lib.py").read_text() == "LR = 1\n"


def test_a_lock_of_a_git_that_is_at_work_is_waited_for(repo, monkeypatch):
    monkeypatch.setattr(git_module, "LOCK_SECONDS", 60.0)
    place = workspace(repo)
    place.keep(place.baseline().commit, None)
    held = leave_locks(repo)
    released: list[bool] = []

    def release() -> None:
        for lock in held:
            released.append(lock.exists())
            lock.unlink(missing_ok=True)

    timer = threading.Timer(0.3, release)
    timer.start()
    place.free_locks()
    timer.join()
    assert released == [True] * 3, "nobody took them away from the git that had them"


def test_a_worktree_of_another_place_is_not_used(repo, tmp_path):
    place = workspace(repo)
    first = place.baseline().commit
    place.keep(first, None)
    shutil.copytree(repo, tmp_path / "copy")
    copy = workspace(tmp_path / "copy")
    second = copy.commit("LR = 1\n", first, "one", 0)
    with pytest.raises(WorktreeError, match=rf"{copy.folder} is not a worktree of .*copy, or that .*: delete it, and"):
        copy.keep(second, first)
    shutil.rmtree(copy.folder)
    copy.keep(second, first)
    assert (copy.folder / "train_lib.py").read_text() == "LR = 1\n"
    assert (place.folder / "train_lib.py").read_text() != "LR = 1\n"


def test_a_branch_that_the_user_has_checked_out_is_not_moved_beneath_him(repo, run_git):
    place = workspace(repo)
    first = place.baseline().commit
    run_git(repo, "checkout", "-q", "-b", "autoresearch/night")
    with pytest.raises(WorkspaceError, match=r"has branch autoresearch/night checked out, which the run moves: check"):
        place.keep(place.commit("LR = 1\n", first, "one", 0), first)
    assert run_git(repo, "rev-parse", "HEAD") == first


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_repository_that_git_does_not_trust_is_not_called_missing(repo):
    shutil.chown(repo, "nobody")
    with pytest.raises(GitError, match=r"dubious ownership .* git config --global --add safe.directory"):
        workspace(repo, environment={"PATH": os.environ["PATH"]})


def test_tags_that_are_no_branch_names(repo):
    for tag in ("", "a b", "a/b", "-x", ".hidden"):
        with pytest.raises(TagError, match=r"git takes no branch of that name"):
            workspace(repo, tag)


def test_no_git_on_the_machine(repo):
    with pytest.raises(GitError, match=r"^git is not installed: install it"):
        workspace(repo, environment={"PATH": str(repo)})


def test_no_repository(tmp_path):
    (tmp_path / "train_lib.py").write_text("LR = 1\n")
    with pytest.raises(
        WorkspaceError, match=r"is in no git repository, .* git init && git add train_lib.py && git com"
    ):
        workspace(tmp_path, environment={"PATH": "/usr/bin:/bin", "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)})


@pytest.mark.parametrize("what", ["no commit", "not tracked", "no file"])
def test_a_file_that_is_in_no_commit_is_refused_with_the_remedy(repo, tmp_path, what):
    folder, name, words = repo, "new.py", r"^new.py is not in the last commit, .*: run git add new.py && git commit"
    if what == "no commit":
        folder, words = tmp_path / "empty", "has no commit yet: run git add new.py && git commit -m start"
        subprocess.run(["git", "init", "-q", str(folder)], check=True)
    if what == "no file":
        words = "new.py: no such file: name the file to edit with --editable"
    else:
        (folder / name).write_text("LR = 1\n")
    with pytest.raises(WorkspaceError, match=words):
        workspace(folder, editable=name).baseline()


def test_the_editable_file_has_changes(repo, run_git):
    (repo / "train_lib.py").write_text("LR = 1\n")
    for _ in ("in the worktree", "in the index"):
        with pytest.raises(
            WorkspaceError, match=r"^train_lib.py has changes that are not committed, .* git commit train"
        ):
            workspace(repo).baseline()
        run_git(repo, "add", "train_lib.py")


def test_git_fetches_nothing_whatever_a_repository_says(tmp_path: Path) -> None:
    """A folder that somebody sent may be a partial clone whose remote is a command."""
    sent, proof = tmp_path / "sent", tmp_path / "proof"
    subprocess.run(["git", "init", "--quiet", str(sent)], check=True)
    for name, value in {
        "core.repositoryformatversion": "1",
        "extensions.partialClone": "origin",
        "remote.origin.promisor": "true",
        "remote.origin.url": f"ext::sh -c touch% {proof}",
        "protocol.ext.allow": "always",
    }.items():
        subprocess.run(["git", "-C", str(sent), "config", name, value], check=True)
    assert not Git(sent, os.environ).succeeds("cat-file", "-e", "1" * 40)
    assert not proof.exists()
    subprocess.run(["git", "-C", str(sent), "cat-file", "-e", "1" * 40], check=False, capture_output=True)
    assert proof.exists()  # as git does by itself


@pytest.mark.parametrize("what", ["files", "a repository", "a locked worktree"])
def test_a_folder_that_is_the_users_is_not_deleted(repo, run_git, what):
    place = workspace(repo)
    first = place.baseline().commit
    if what == "a locked worktree":
        place.keep(first, None)
        run_git(repo, "worktree", "lock", "--reason", "on a stick", str(place.folder))
        (place.folder / "notes.txt").write_text("mine")
        place.keep(first, first)
    else:
        place.folder.mkdir(parents=True)
        (place.folder / "notes.txt").write_text("mine")
        if what == "a repository":
            run_git(place.folder, "init", "-q")
        with pytest.raises(WorktreeError, match=r"workspace is .*: move it away"):
            place.keep(first, None)
    assert (place.folder / "notes.txt").read_text() == "mine"
