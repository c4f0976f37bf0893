"""What the process of a trial can reach: tried from within, when it starts and when it has trained."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from lm_trials import MakeTask, run_trial

from autoresearch_jax.errors import UsageError
from autoresearch_jax.sandbox.linux import SCOPE_ABI, landlock_abi
from autoresearch_jax.tasks.lm import cage, trial
from autoresearch_jax.tasks.lm.data.dataset import MANIFEST, Dataset, rows_file, text_file
from autoresearch_jax.tasks.lm.device import start_worker
from autoresearch_jax.types import Scrutiny, Status

# A module that Python imports when it starts, before it is the trial's process: it tells what it reaches then, and when
# the snapshot is renamed, after training.
SITECUSTOMIZE = """
import json, os, socket, sys
from pathlib import Path

if "autoresearch_jax.tasks.lm.worker" in sys.orig_argv:
    plan = json.loads(Path(__file__).with_name("plan.json").read_text())

    def reached():
        tries = {name: lambda path=path: open(path, "rb").close() for name, path in plan["read"].items()}
        tries |= {name: lambda path=path: os.listdir(path) for name, path in plan["list"].items()}
        tries |= {name: lambda path=path: open(path, "a").close() for name, path in plan["write"].items()}
        tries |= {name: lambda name=name: os.environ[name] for name in plan["variables"]}
        tries["its /proc/PID/environ"] = lambda: open(f"/proc/{plan['victim']}/environ", "rb").read()
        tries["signal"] = lambda: os.kill(plan["victim"], 0)
        tries["TCP"] = lambda: socket.create_connection(("127.0.0.1", plan["port"]), 5).close()
        tries["local socket"] = lambda: socket.socket(socket.AF_UNIX)
        tries["link"] = lambda: os.symlink("/", Path.home() / "link")
        tries["new file at home"] = lambda: open(Path.home() / "new", "w").close()
        found = []
        for name, attempt in tries.items():
            try:
                attempt()
            except (OSError, KeyError):
                continue
            found.append(name)
        return found

    def tell(when):
        print(json.dumps({"when": when, "reached": reached()}), file=sys.stderr, flush=True)

    is_telling = False

    def hook(event, arguments):
        global is_telling
        if event == "os.rename" and "snapshot" in str(arguments[1]) and not is_telling:
            is_telling = True
            tell("trained")

    tell("started")
    sys.addaudithook(hook)
"""
SECRET = "NVIDIA_API_KEY"  # begins as variables do that are inherited
NEVER = {"home", "another run", "validation text", "write to another run", "write to the dataset"}
NEVER |= {SECRET, "GEMINI_API_KEY", "its /proc/PID/environ", "TCP", "local socket", "link"}

needs_landlock = pytest.mark.skipif(landlock_abi() == 0, reason="the kernel has no Landlock")


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of another run."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "ledger.db").write_text("a")
    return folder


@pytest.fixture
def environment(tiny_dataset: Dataset, elsewhere: Path, tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """Has trials' processes tell what they reach; there is something to reach."""
    site, other_trial = tmp_path / "site", tmp_path / "other trial"
    site.mkdir()
    other_trial.mkdir()
    (site / "sitecustomize.py").write_text(SITECUSTOMIZE)
    rows = {split: str(tiny_dataset.folder / rows_file(256, 32, split)) for split in ("train", "val", "holdout")}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        plan = {
            "read": {
                **{f"{split} rows": path for split, path in rows.items()},
                "validation text": str(tiny_dataset.folder / text_file("val")),
                "another run": str(elsewhere / "ledger.db"),
            },
            "list": {"home": str(Path.home())},
            "write": {
                "write to another run": str(elsewhere / "ledger.db"),
                "write to the dataset": str(tiny_dataset.folder / MANIFEST),
                "write to another trial": str(other_trial / "worker.log"),
            },
            "variables": [SECRET, "GEMINI_API_KEY", "JAX_PLATFORMS"],
            "victim": os.getpid(),
            "port": listener.getsockname()[1],
        }
        (site / "plan.json").write_text(json.dumps(plan))
        secrets = {SECRET: "a", "GEMINI_API_KEY": "b"}
        yield {**os.environ, **secrets, "PYTHONPATH": f"{site}:{os.environ.get('PYTHONPATH', '')}"}


def told(log: Path) -> dict[str, set[str]]:
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith('{"when"')]
    return {line["when"]: set(line["reached"]) for line in lines}


@needs_landlock
@pytest.mark.parametrize("waited", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_trial_s_process_reaches_what_it_needs(
    waited: bool,
    make_task: MakeTask,
    environment: Mapping[str, str],
    tiny_source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trial, "PATIENCE_SECONDS", 120.0)  # however busy the machine, what waits becomes ready
    task = make_task(environment=environment, standby=waited)
    measured = run_trial(task, tiny_source, tmp_path / "trial")
    if waited:
        standby_log = tmp_path / "standby.log"
        measured = run_trial(task, tiny_source, tmp_path / "next")
        found = {**told(standby_log), **told(tmp_path / "next" / "worker.log")}
        assert "started" not in told(tmp_path / "next" / "worker.log")
    else:
        found = told(tmp_path / "trial" / "worker.log")
    assert measured.status is Status.OK
    both = {"train rows", "val rows", "JAX_PLATFORMS", "new file at home"}
    assert both | {"holdout rows", "write to another trial"} <= found["started"]
    assert both <= found["trained"]
    assert not found["trained"] & {"holdout rows", "write to another trial"}
    signals = set() if landlock_abi() >= SCOPE_ABI else {"signal"}
    assert not (found["started"] | found["trained"]) & (NEVER | ({"signal"} - signals))


@needs_landlock
@pytest.mark.slow
def test_an_audit_s_process_reads_the_holdout(
    make_task: MakeTask, environment: Mapping[str, str], tiny_source: str, tmp_path: Path
) -> None:
    measured = run_trial(make_task(environment=environment), tiny_source, tmp_path / "trial", scrutiny=Scrutiny.AUDIT)
    assert measured.status is Status.OK
    assert "holdout rows" in told(tmp_path / "trial" / "worker.log")["trained"]


def test_without_walls_it_still_inherits_no_keys(environment: Mapping[str, str], tmp_path: Path) -> None:
    worker = start_worker("none_such", 1, tmp_path / "log", environment=environment, compile_cache_dir=None, reach=None)
    with closing(worker):
        worker.receive(60)
    found = told(tmp_path / "log")["started"]
    assert "another run" in found
    assert not found & {SECRET, "GEMINI_API_KEY"}


def test_variables_are_inherited_by_name() -> None:
    given = {
        "XLA_FLAGS": "1",
        "JAX_TRACEBACK_FILTERING": "1",
        "CUDA_VISIBLE_DEVICES": "1",
        "NCCL_DEBUG": "1",
        "TPU_VISIBLE_CHIPS": "1",
        "GCE_METADATA_IP": "1",
        "LD_LIBRARY_PATH": "1",
        "GLIBC_TUNABLES": "1",
        "MALLOC_ARENA_MAX": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PATH": "1",
        "LANG": "1",
        "JAX_LEGACY_PRNG_KEY": "1",
    }
    dropped = dict.fromkeys(("HOME", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "NVIDIA_API_KEY", "SSH_AUTH_SOCK"), "2")
    assert cage.inherited_variables({**given, **dropped}) == given


def test_folders_that_settings_name_are_within_reach(tmp_path: Path) -> None:
    dump, cache = tmp_path / "dump", tmp_path / "cache"
    flags = {"XLA_FLAGS": f"--xla_dump_to={dump} --xla_gpu_cuda_data_dir=/opt/own-cuda --xla_dump_hlo_as_text"}
    files = cage.landlock(
        "cuda", 1, {**flags, "JAX_COMPILATION_CACHE_DIR": str(cache)}, cage.FileAccess((tmp_path / "data",))
    )
    assert {str(dump), str(cache)} <= set(files["writable"])
    assert dump.is_dir()
    assert {"/opt/own-cuda", str(tmp_path / "data"), sys.base_prefix} <= set(files["readable"])
    assert str(tmp_path) not in {*files["readable"], *files["writable"]}


def test_files_that_settings_name_are_made_and_within_reach(tmp_path: Path) -> None:
    paths = [tmp_path / "new" / "tuned.txt", tmp_path / "kernels.bin"]
    paths[1].write_text("kept")
    flags = f"--xla_gpu_dump_autotune_results_to={paths[0]} --xla_gpu_kernel_cache_file={paths[1]}"
    files = cage.landlock("cuda", 1, {"XLA_FLAGS": flags}, cage.FileAccess())
    assert set(map(str, paths)) <= set(files["writable"])
    assert [path.read_text() for path in paths] == ["", "kept"]


@pytest.mark.parametrize(
    "flag", ["xla_dump_to", "xla_gpu_dump_autotune_results_to", "xla_gpu_kernel_cache_file", "xla_gpu_cuda_data_dir"]
)
def test_a_relative_path_is_named_with_the_absolute_one(flag: str) -> None:
    with pytest.raises(UsageError, match=f"^XLA_FLAGS=--{flag}=a/b: .*: write --{flag}={os.getcwd()}/a/b$"):
        cage.require_absolute_paths({"XLA_FLAGS": f"--xla_dump_hlo_as_text=true --{flag}=a/b"})
    cage.require_absolute_paths({"XLA_FLAGS": f"--{flag}=/a/b --xla_dump_to=- --xla_dump_max_hlo_modules=3"})


def test_only_a_tpu_s_process_looks_names_up() -> None:
    readable = {platform: cage.landlock(platform, 2, {}, cage.FileAccess())["readable"] for platform in ("cuda", "tpu")}
    assert "/etc/resolv.conf" in readable["tpu"]
    assert "/etc/resolv.conf" not in readable["cuda"]


def test_beside_our_package_lies_what_is_the_user_s(tmp_path: Path) -> None:
    checkout = str(Path(cage.__file__).resolve().parents[3])
    environment = {"PYTHONPATH": f"{checkout}{os.pathsep}{tmp_path}"}
    files = cage.landlock("cpu", 1, environment, cage.FileAccess())
    assert str(tmp_path) in files["readable"]
    assert checkout not in files["readable"]
    variables = cage.scratch_variables(environment, tmp_path)
    code = "import autoresearch_jax; print(autoresearch_jax.__file__)"
    command = [sys.executable, "-c", code]
    shown = subprocess.run(
        command, env={**os.environ, **variables}, cwd="/", capture_output=True, text=True, check=True
    )
    assert Path(shown.stdout.strip()).resolve() == Path(checkout) / "autoresearch_jax" / "__init__.py"


@pytest.mark.parametrize(
    ("platform", "num_devices", "network"),
    [("cpu", 4, None), ("cuda", 1, None), ("cuda", 2, "loopback"), ("tpu", 1, "host")],
)
def test_only_what_needs_a_network_has_one(platform: str, num_devices: int, network: str | None) -> None:
    assert cage.network(platform, num_devices) == network
    assert cage.network(platform, num_devices, num_hosts=2) == "host"
