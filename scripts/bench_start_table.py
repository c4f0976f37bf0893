"""The starts that bench_start.py makes: what a user types in a repository, and what has to come of it."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from gemini_server import Step, answer, error, reply, says

SETTINGS = (  # of trials of seconds
    *("--sequence_length=32", "--vocab_sizes=256,320", "--budget_steps=5", "--platform=cpu"),
    *("--decision=greedy", "--seed=0", "--undefok=budget_steps,platform,decision,seed"),
)
PAGE = "## Goal\n\nLower it.\n\n## You may change\n\n|constant|values|\n|---|---|\n"
PAGE += "|LEARNING_RATE|1.0 .. 30.0|\n|BATCH_SIZE|4, 8|\n\n"
STOPS = "## Stop when\n\n- 1 experiment\n"
RUN = "autoresearch run --flagfile=$FLAGS --tag=new"
MODEL = f"{RUN} --proposer=gemini --gemini_base_url=$MODEL"
BEGIN = "autoresearch run --flagfile=$FLAGS --tag=night --proposer=constants"
GO_ON = "autoresearch run --tag=night --experiments=2"


@dataclass(frozen=True)
class Start:
    """A start.

    Attributes:
      kind: what the fault is in.
      tried: what is odd.
      typed: lines of shell; $FLAGS is a flag file of SETTINGS, $MODEL and $SOCKS are servers, $SHIPPED the checkout.
      named: pattern of the line that must come before anything is measured.
      shows: patterns of lines that must come, too.
      status: exit status; where it is not 0, the line that is `named` must be the only one, but for notices.
      stops: the end of program.md.
      limited: whether a limit in program.md must not be lost.
      on_run: whether the repository has a run `night`, made by BEGIN.
      folder: name of the repository.
      answers: of the model.
    """

    kind: str
    tried: str
    typed: str
    named: str = ""
    shows: tuple[str, ...] = ()
    status: int = 0
    stops: str = STOPS
    limited: bool = False
    on_run: bool = False
    folder: str = "repo"
    answers: Sequence[Step] = ()


def agent(command: str) -> str:
    """A run whose agent is a line of shell."""
    return f"{RUN} --proposer=command --agent_command={shlex.quote(command)}"


def change(constant: str, value: object) -> str:
    """A line of shell that writes a constant."""
    return f"sed -i 's/^{constant} = .*/{constant} = {value}/' train_lib.py"


BETTER = change("LEARNING_RATE", 20.0)
EDIT = ("LEARNING_RATE = 10.0", "LEARNING_RATE = 20.0")
GOOD = answer([EDIT])
WORDS = {"hypothesis": "a larger step", "edits": [{"search": EDIT[0], "replace": EDIT[1]}]}
TALKATIVE = json.dumps(WORDS).replace("}]}", "}, // the last\n ], }")
KEPT, ENDED = r"^ +1 +keep ", "^ended: +1 experiment reached"
SECOND_ENDED = "^ended: +2 experiments reached"
ONE_LINE_CHANGED = r"train_lib\.py \| 2 \+-$"

WITHOUT_LFS = """\
echo '*.bin filter=lfs diff=lfs merge=lfs -text' > .gitattributes
printf 'version https://git-lfs.github.com/spec/v1\\noid sha256:%064d\\nsize 12345\\n' 1 > weights.bin
git add . && git commit -qm weights
git config filter.lfs.required true
git config filter.lfs.smudge 'no-git-lfs smudge -- %f'
git config filter.lfs.process 'no-git-lfs filter-process'
"""
MORE = f"{RUN} --proposer=constants --experiments=2"
XLA = "XLA_FLAGS=--xla_no_such_flag=1"
THROUGH_SOCKS = f"ALL_PROXY=$SOCKS {MODEL}".replace("=$MODEL", "=http://model.example:${MODEL##*:}")
ONE_LESS = f"sed -i '/^BATCH_SIZE/d; s/BATCH_SIZE/8/' train_lib.py; {change('LEARNING_RATE', 20)}"
NEVER_ENDS = "echo 'while True: pass' >> train_lib.py"
QUOTED_AGENT = f"""\
echo "--agent_command='sh x.sh'" > my.flags
{RUN} --proposer=command --flagfile=my.flags
"""
HALF_SAVED = f"""\
export PAGE="$PWD/program.md"
{agent(f'head -c 20 "$PAGE" > half; cp half "$PAGE"; {BETTER}')}
"""
MARK_AND_CRLF = f"""\
sed -i '1s/^/\\xef\\xbb\\xbf/; s/$/\\r/' train_lib.py && git commit -qam crlf
{agent(BETTER)} && git diff --stat main autoresearch/new
"""
TITLE = "# Hypothesis\\n\\nA larger step\\n\\nCategory: Optimizer (learning rate)\\n"
TITLED = f"""\
{agent(f"{BETTER}; printf '{TITLE}' > HYPOTHESIS.md")} && git log -1 --format=%s autoresearch/new
"""
CLONE = f"""\
git clone -qc core.autocrlf=true . clone && cd clone
{agent(BETTER)} && git diff --stat main autoresearch/new
"""
WAITING = f"""\
{MODEL} --proposal_seconds=8 &
until autoresearch status --tag=new 2>&1 | grep '^waiting:.*429'; do sleep 0.2; done
wait $!
"""
SWEEP = """\
mkdir -p .venv/bin scripts && touch -d yesterday setup.cfg && touch .venv/.installed-base
cp "$SHIPPED"/scripts/setup.sh "$SHIPPED"/scripts/sweep.sh scripts
python=$PWD/.venv/bin/python command=$(command -v autoresearch)
printf '#!/bin/sh\\n# %s\\nexec %s "$@"\\n' "$python" "$command" > .venv/bin/autoresearch
chmod +x .venv/bin/autoresearch
cat "$FLAGS" > my.flags && echo --tag=mine >> my.flags
scripts/sweep.sh LEARNING_RATE=10,20 -- --flagfile=my.flags
"""

STARTS = (
    Start("trying", "Git LFS is asked for and not installed", WITHOUT_LFS + agent(BETTER), shows=(KEPT, ENDED)),
    Start("trying", "user.name is empty", f"git config user.name ''\n{agent(BETTER)}", shows=(KEPT, ENDED)),
    Start("trying", ".git/worktrees is a file", f"echo x > .git/worktrees\n{RUN}", "git worktree failed", status=1),
    Start("trying", "no agent behind `timeout 60`", agent("timeout 60 nosuchagent"), "127 when it was tried", status=2),
    Start("trying", "quotes around an agent in a flag file", QUOTED_AGENT, "the quotes make one word of it", status=2),
    Start(
        "limits",
        "only a comment",
        RUN,
        r'program\.md:12: "Stop when" says nothing',
        status=1,
        limited=True,
        stops="## Stop when\n\n<!-- - 8 hours -->\n",
    ),
    Start(
        "limits",
        "another heading",
        RUN,
        r"program\.md:14: '8 hours' in .* ends nothing",
        status=1,
        limited=True,
        stops="## Limits\n\n- 8 hours\n",
    ),
    Start(
        "limits",
        "prose under bold words",
        RUN,
        "what ends the run: 8 hours; 1 second$",
        limited=True,
        stops="**Stop when**\n\nStop after 8 hours or 1 second.\n",
    ),
    Start(
        "limits",
        "ticks, bold words and a comma",
        RUN,
        "what ends the run: 1,000 experiments; 1 second$",
        limited=True,
        stops="### Stop when:\n\n- [x] **1,000 experiments**\n- [ ] 1 second\n",
    ),
    Start(
        "limits",
        "a misspelt item",
        RUN,
        r'program\.md:14: "20 dolars" is not understood',
        limited=True,
        stops="## Stop when\n\n- 20 dolars\n- 1 second\n",
    ),
    Start(
        "limits",
        "half a page is saved while the run is on",
        HALF_SAVED,
        shows=("stays in force", SECOND_ENDED),
        limited=True,
        stops="## Stop when\n\n- 2 experiments\n",
    ),
    Start(
        "kept changes",
        "a value outside its row",
        f"{agent(change('LEARNING_RATE', 40.0))} && {MORE}",
        shows=("LEARNING_RATE.* the optimizer leaves it alone", SECOND_ENDED),
    ),
    Start(
        "kept changes",
        "a constant less, a whole number for a real one",
        f"{agent(ONE_LESS)} && {MORE}",
        shows=("BATCH_SIZE.* the optimizer leaves it alone", SECOND_ENDED),
    ),
    Start("text", "a mark and CRLF in train_lib.py", MARK_AND_CRLF, shows=(KEPT, ONE_LINE_CHANGED)),
    Start(
        "text",
        "a title in HYPOTHESIS.md",
        TITLED,
        shows=("keep .* optimizer +A larger step", "^A larger step$"),
    ),
    Start(
        "answers",
        "thinking, prose, a fence, comments",
        MODEL,
        shows=(KEPT, ENDED),
        answers=[says(f"<think>{{x}}</think>Sure:\n```json\n{TALKATIVE}\n```\nDone.")],
    ),
    Start(
        "answers",
        "curly quotes in a search block",
        f"{MODEL} && cat runs/new/llm/0001/*.json",
        shows=(KEPT, r"has .*U\+201C"),
        answers=[answer([("LEARNING_RATE = “10.0”", EDIT[1])]), GOOD],
    ),
    Start(
        "answers",
        "status 200 with an error",
        MODEL,
        shows=("1 +rejected .*the service says 400: bad field", ENDED),
        answers=[reply({"error": {"code": 400, "message": "bad field"}})],
    ),
    Start(
        "answers",
        "a usage of 2^31 tokens",
        MODEL,
        shows=("counted as the most", r"^dollars: +0\.\d+$", KEPT),
        answers=[answer([EDIT], usage=(1000, 2**31 - 1, 0))],
    ),
    Start(
        "network", "SSL_CERT_FILE names nothing", f"SSL_CERT_FILE=/nowhere.pem {MODEL}", "SSL_CERT_FILE: No", status=1
    ),
    Start("network", "an unknown kind of proxy", f"ALL_PROXY=socks4://u:hush@x {MODEL}", "ALL_PROXY: Unk", status=1),
    Start("network", "a SOCKS proxy", THROUGH_SOCKS, shows=(KEPT, ENDED), answers=[GOOD]),
    Start(
        "paths", "the home of an unknown user", f"{RUN} --run_dir=~nosuchuser/x", "--run_dir=~nosuchuser/x: ", status=2
    ),
    Start(
        "paths", "a home that cannot be written to", f"unset XDG_CACHE_HOME; HOME=/sys {RUN}", "--cache_dir", status=1
    ),
    Start("paths", "a colon in a folder's name", RUN, "c:d/runs/new: .*--run_dir", status=1, folder="c:d"),
    Start(
        "git",
        "log.showSignature",
        f"git config log.showSignature true\n{agent(BETTER)} --set=BATCH_SIZE=4",
        shows=(KEPT, ENDED),
    ),
    Start("git", "a clone with core.autocrlf", CLONE, shows=(KEPT, ONE_LINE_CHANGED)),
    Start(
        "output",
        "a terminal with ASCII only",
        f"PYTHONIOENCODING=ascii {agent(f'{BETTER}; echo größer')}",
        shows=(KEPT + r".*gr\?\?er", ENDED),
    ),
    Start(
        "output",
        "a service that is down for a while",
        WAITING,
        shows=("^waiting: .*429: busy; since .*", "waiting, and asking again", "answers again", KEPT),
        answers=[error(429, "busy", retry_seconds=9), GOOD],
    ),
    Start("deaths", "an unknown flag in XLA_FLAGS", f"{XLA} {RUN}", "Unknown flag in XLA_FLAGS", status=1),
    Start(
        "deaths", "the same when a run goes on", f"{XLA} {GO_ON}", "Unknown flag in XLA_FLAGS", status=1, on_run=True
    ),
    Start(
        "deaths",
        "JAX_TRANSFER_GUARD when a run goes on",
        f"JAX_TRANSFER_GUARD=disallow {GO_ON}",
        "JAX_TRANSFER_GUARD",
        status=1,
        on_run=True,
    ),
    Start(
        "cut off", "an agent that never ends", f"{agent(f'{BETTER}; sleep 300')} --agent_seconds=3", shows=(KEPT, ENDED)
    ),
    Start(
        "cut off", "a candidate that never ends", f"{agent(NEVER_ENDS)} --trace_seconds=3", shows=("1 +timeout ", ENDED)
    ),
    Start(
        "results",
        "an agent that changes nothing",
        f"{agent('echo later')} >/dev/null && autoresearch results --tag=new",
        shows=('1 +rejected .* command .*it said "later"',),
    ),
    Start(
        "results",
        "a limit in requests",
        f"{MODEL} --max_requests=5 >/dev/null && autoresearch status --tag=new",
        shows=("^tokens: +1250$", "^requests: +1$", "^max_requests: +5$"),
        answers=[GOOD],
    ),
    Start("settings", "a run goes on without its flags", GO_ON, shows=(SECOND_ENDED,), on_run=True),
    Start(
        "settings",
        "another budget",
        f"{GO_ON} --budget_steps=6",
        "--budget_steps=6 .*is bound to",
        status=2,
        on_run=True,
    ),
    Start(
        "settings", "a misspelt tag", "autoresearch status --tag=nihgt", "there are night in ", status=1, on_run=True
    ),
    Start("settings", "a sweep with a tag in its flag file", SWEEP, shows=(r"^ .*LEARNING_RATE.*20",)),
)
