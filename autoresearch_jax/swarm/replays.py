"""Replays: which program of a peer is run again here, and what that says of the score that the peer claims."""

import enum
import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.findings.folder import id_of_content, is_named
from autoresearch_jax.findings.format import Evidence, Finding, FindingError, device_class
from autoresearch_jax.findings.trust import DIFFERS, REPLAYED, is_replay
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.swarm.chain import CHANGED, PeerFinding, read_files, read_findings
from autoresearch_jax.swarm.contents import Swarm
from autoresearch_jax.swarm.membership import SwarmError
from autoresearch_jax.swarm.store import ChainCommit, Store
from autoresearch_jax.types import Budget, Measurement, Scalar, Status

ONE_IN = 20  # of the claims that a peer reads, it runs one again when it is idle
TOLERANCE = 3.0  # standard deviations of a run, that a replay may be off
OF_CANDIDATE = (
    Status.CRASH,
    Status.NONFINITE,
    Status.INVALID,
    Status.REJECTED,
)  # failures that a machine has no part in

MOST_STEPS = 2**31  # of a run
_MOST_SEEDS = 2**63
_BUDGET = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?) (s|steps)")


class Result(enum.StrEnum):
    """What a replay gave."""

    EQUAL = "equal bits"
    WITHIN = "within noise"
    DIFFERS = "differs"
    UNCLEAR = "says nothing"


@dataclass(frozen=True)
class Claim:
    """The score that a peer says its program had."""

    peer: str  # its name
    commit: ChainCommit  # of its chain
    finding: Finding  # as it stands there
    evidence: Evidence  # with the score of the first run, its seed and its steps

    def rank(self, name: str) -> int:
        """Draws claims: another order for each peer, and the same each time."""
        return int.from_bytes(hashlib.sha256(f"{name} {self.commit.commit}".encode()).digest()[:8], "big")

    @property
    def budget(self) -> Budget:
        """The budget of the claimed run.

        Raises:
          SwarmError: the evidence names no budget.
        """
        if (found := _BUDGET.fullmatch(self.evidence.budget)) is not None:
            number, unit = float(found[1]), found[2]
            if unit == "s" and 0 < number < math.inf:
                return Budget(seconds=number)
            if unit == "steps" and 1 <= number < MOST_STEPS:
                return Budget(steps=int(number))
        what = clean_line(self.evidence.budget)
        raise SwarmError(f"{self.finding.id} of {self.peer}: {what} is no budget: not replayed")


@dataclass(frozen=True)
class Setting:
    """Where programs are run again: the task of a run of this machine."""

    fingerprint: str  # of the task
    device_class: str  # see `findings.format.device_class`
    device: str  # its full name
    budget: Budget  # of the run
    sigma: float | None  # standard deviation of a run there; None where that is not known
    counts_steps: bool  # whether a budget of steps can be had

    @classmethod
    def of_run(cls, ledger: Ledger, settings: Mapping[str, Scalar], *, counts_steps: bool) -> "Setting":
        """That of a run that has begun."""
        decisions = (ledger.decisions(row.id) for row in reversed(ledger.experiments()))
        seconds, steps = settings.get("budget_seconds"), settings.get("budget_steps")
        return cls(
            fingerprint=str(settings.get("fingerprint")),
            device_class=device_class(settings),
            device=clean_line(str(settings.get("device_kind") or "")),
            budget=Budget(seconds=float(seconds)) if seconds is not None else Budget(steps=int(steps or 0)),
            sigma=next((found[-1].sigma for found in decisions if found and found[-1].sigma), None),
            counts_steps=counts_steps,
        )

    def budget_of(self, claim: Claim) -> Budget:
        """The budget of a replay: as many steps as the claimed run made, or its budget where steps are not counted.

        Raises:
          SwarmError: it has none.
        """
        if not self.counts_steps:
            return claim.budget
        steps = claim.evidence.steps
        return Budget(steps=min(steps, MOST_STEPS)) if steps else claim.budget

    def noise_of(self, claim: Claim) -> float | None:
        """Standard deviation of a run: what the peer claims, and no more than that of the run where both are alike."""
        same = claim.budget == self.budget and claim.evidence.device_class == self.device_class
        known = [claim.evidence.sigma, self.sigma if same else None]
        return min((sigma for sigma in known if sigma is not None), default=None)


def claims_of(swarm: Swarm) -> Iterator[Claim]:
    """What peers claim with a score and a seed, the latest of each peer and finding."""
    papers = {(paper.peer, paper.finding.content): paper for paper in swarm.read}
    for paper in papers.values():
        claimed = [one for one in paper.finding.evidence if _is_claim(one)]
        if claimed:
            yield Claim(paper.peer, paper.commit, paper.finding, claimed[-1])


def _is_claim(one: Evidence) -> bool:
    return not is_replay(one) and one.value is not None and one.seed is not None and one.seed < _MOST_SEEDS


def is_replayed(swarm: Swarm, claim: Claim, by: str | None = None) -> bool:
    """Whether a peer has run the program again, or any other than the claimant."""
    evidence = (one for one in swarm.evidence_on(claim.finding) if is_replay(one) and one.claim == claim.peer)
    return any(one.peer == by if by is not None else one.peer != claim.peer for one in evidence)


def find_claim(swarm: Swarm, setting: Setting, id: str | None = None, peer: str | None = None) -> Claim:
    """The claim to replay: the one that is named, else one that was not replayed yet, if possible of this device class.

    Raises:
      SwarmError: there is none, or it was measured on another task.
    """
    name = swarm.settings.name
    of_peer = (claim for claim in claims_of(swarm) if peer in (None, claim.peer))
    found = [claim for claim in of_peer if id is None or is_named(claim.finding, id)]
    fitting = [claim for claim in found if claim.evidence.fingerprint == setting.fingerprint]
    if id is not None and not fitting:
        what = clean_line(id if peer is None else f"{id} of {peer}")
        if found:
            theirs = clean_line(found[0].evidence.fingerprint)
            raise SwarmError(f"{what}: measured on another task ({theirs}, the run has {setting.fingerprint})")
        raise SwarmError(f"{what}: no finding with a score and a seed was read: `autoresearch swarm papers` has all")
    if id is None:
        fitting = [claim for claim in fitting if not is_replayed(swarm, claim)]
    if not fitting:
        raise SwarmError("nothing to replay: no finding of a peer on this task that was not replayed yet")

    def order(claim: Claim) -> tuple[bool, bool, int]:
        other_class = claim.evidence.device_class != setting.device_class
        return is_replayed(swarm, claim, name), other_class, claim.rank(name)

    return min(fitting, key=order)


def idle_claims(swarm: Swarm, setting: Setting) -> list[Claim]:
    """Those that this peer replays unasked: one in `ONE_IN` of its device class and task, but for what it has done."""
    name = swarm.settings.name
    return [
        claim
        for claim in claims_of(swarm)
        if (claim.evidence.fingerprint, claim.evidence.device_class) == (setting.fingerprint, setting.device_class)
        and claim.rank(name) % ONE_IN == 0
        and not is_replayed(swarm, claim, name)
    ]


def read_program(store: Store, claim: Claim) -> tuple[PeerFinding, str]:
    """A claim's finding as it was checked when it was read, and the text of its program.

    Raises:
      FindingError: its files do not agree.
    """
    (found,) = read_findings(store, claim.peer, [claim.commit])
    if isinstance(found, FindingError):
        raise found
    return found, read_files(store, claim.commit)[CHANGED].decode()


def judge(claim: Claim, measurement: Measurement, setting: Setting) -> tuple[Result, str]:
    """What a replay says of a claim, and why, in words.

    Another score says nothing where the machine may be why: on another device class, and without a number of steps on
    another device.
    """
    said, noise = claim.evidence, setting.noise_of(claim)
    is_counted = setting.counts_steps and bool(said.steps)
    same = said.device_class == setting.device_class and (is_counted or said.device == setting.device)
    here = (
        "" if same else f", on {setting.device or setting.device_class} in place of {said.device or said.device_class}"
    )
    if measurement.value is None:
        why = clean_line(f"{measurement.status}: {measurement.error}{here}", 200)
        return (Result.DIFFERS if same and measurement.status in OF_CANDIDATE else Result.UNCLEAR), why
    assert said.value is not None
    off = measurement.value - said.value
    if off == 0 and is_counted:
        return Result.EQUAL, ""
    if noise is None:
        return (Result.WITHIN if off == 0 else Result.UNCLEAR), f"the noise of a run is not known{here}"
    why = f"{abs(off):.3g} off, {TOLERANCE:g} sigma are {TOLERANCE * noise:.3g}{here}"
    if abs(off) <= TOLERANCE * noise:
        return Result.WITHIN, why
    return (Result.DIFFERS if same else Result.UNCLEAR), why


def replay_evidence(
    claim: Claim, measurement: Measurement, setting: Setting, result: Result, date: str, seconds: float
) -> Evidence:
    """What this peer says of a claim; `seconds` is what the replay took, `date` the day."""
    budget = setting.budget_of(claim)
    return Evidence(
        device_class=setting.device_class,
        fingerprint=setting.fingerprint,
        budget=claim.evidence.budget if budget.steps is None else f"{budget.steps} steps",
        runs=1,
        decision=DIFFERS if result is Result.DIFFERS else REPLAYED,
        date=date,
        device=setting.device,
        seconds=round(seconds, 1),
        replay=f"autoresearch swarm replay {id_of_content(claim.finding)} {claim.peer}",
        sigma=setting.noise_of(claim),
        seed=measurement.seed,
        steps=budget.steps,
        value=measurement.value,
        claim=claim.peer,
    )
