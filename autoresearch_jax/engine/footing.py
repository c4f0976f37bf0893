"""What must hold before a run begins anything, or writes down what came of it."""

from dataclasses import dataclass

from autoresearch_jax.engine.disk import DiskGuard
from autoresearch_jax.engine.driver_lock import DriverLock


@dataclass(frozen=True)
class Footing:
    """Room on the run's disk, and that the run is still this process's.

    Attributes:
      disk: the run's.
      lock: the run's, held; None for a run that nobody else can know of.
    """

    disk: DiskGuard
    lock: DriverLock | None = None

    def require(self, more_bytes: int = 0) -> None:
        """Makes sure of all of it, before `more_bytes` are written.

        Raises:
          DiskError: there is no room, or the folder cannot be written to.
          DriverLockError: another process took the run over, as it may where this machine slept.
        """
        self.require_lock()
        self.disk.require_room(more_bytes)

    def require_lock(self) -> None:
        """Makes sure that the run is still this process's.

        Raises:
          DriverLockError: it is not; this process must not write to it any more.
        """
        if self.lock is not None:
            self.lock.require()
