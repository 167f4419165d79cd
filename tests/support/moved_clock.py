"""Wall clocks that a test moves under running processes, by a library that is preloaded into them."""

import contextlib
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")
_SECONDS = struct.Struct("=q")


@dataclass(frozen=True, slots=True)
class MovedClock:
    """The wall clock of the processes that were started with `environment`."""

    library: Path
    file: Path

    @property
    def environment(self) -> dict[str, str]:
        """What such a process must be started with."""
        return {"LD_PRELOAD": str(self.library), "MOVED_CLOCK": str(self.file)}

    def move(self, seconds: int) -> None:
        """Put it ahead of the machine's clock by `seconds`; below zero: behind it."""
        with self.file.open("r+b") as file:  # in place: it is mapped into the processes
            file.write(_SECONDS.pack(seconds))


@contextlib.contextmanager
def moved_clocks(*names: str) -> Iterator[list[MovedClock]]:
    """Yield clocks that can be moved, each by itself; skips where there is no compiler for the library."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and Linux to move the clocks of processes")
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        place.chmod(0o755)  # PostgreSQL may run as another user
        library = place / "moved_clock.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE)], check=True)
        clocks = []
        for name in names:
            (place / name).write_bytes(_SECONDS.pack(0))
            clocks.append(MovedClock(library, place / name))
        yield clocks
