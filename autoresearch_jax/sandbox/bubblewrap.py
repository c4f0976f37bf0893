"""The command line of bubblewrap that confines a process to its view: https://github.com/containers/bubblewrap"""

import os
from collections.abc import Sequence
from pathlib import Path

from autoresearch_jax.sandbox.seccomp import FILTER_DESCRIPTOR, filter_program
from autoresearch_jax.sandbox.view import READABLE_DEVICES, WRITABLE_DEVICES, View

_NOBODY = "65534"
_TOP_LINKS = ("/lib", "/lib64", "/lib32", "/usr/lib64")  # on most systems links into /usr, where the loader looks


def bubblewrap_argv(bwrap: str, view: View, scratch: Path, argv: Sequence[str]) -> list[str]:
    """A command line that runs `argv` with everything but the view and `scratch` out of sight.

    All is where it is outside, and read-only; /tmp is a folder in `scratch`. No network, no other process. The filter
    of system calls is read from `FILTER_DESCRIPTOR`.

    Args:
      bwrap: the program.
      view: what can be seen.
      scratch: the folder that can be written to; resolved, with a folder "tmp" in it.
      argv: what to run.
    """
    words = [bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    words += ["--uid", _NOBODY, "--gid", _NOBODY, "--hostname", "sandbox"]
    words += ["--bind", str(scratch / "tmp"), "/tmp"]
    # what lies deeper comes later, so that it is seen in what hides it
    mounts = [(path, ["--ro-bind", str(path), str(path)]) for path in view.readable]
    mounts += [(path, ["--tmpfs", str(path)]) for path in view.hidden]
    mounts += [(scratch, ["--bind", str(scratch), str(scratch)])]
    for _, mount in sorted(mounts, key=lambda item: len(item[0].parts)):
        words += mount
    for hidden in view.hidden:
        words += ["--remount-ro", str(hidden)]
    for link in _TOP_LINKS:
        if os.path.islink(link):
            words += ["--symlink", os.readlink(link), link]
    words += ["--proc", "/proc"]
    for device in (*READABLE_DEVICES, *WRITABLE_DEVICES):
        words += ["--dev-bind", device, device]
    if filter_program() is not None:
        words += ["--seccomp", str(FILTER_DESCRIPTOR)]
    return [*words, "--remount-ro", "/", "--chdir", str(scratch), "--", *argv]
