"""`python -m tools.mutants [MODULE …]`: small faults in the authentication core, and which ones tests notice."""

import argparse
import contextlib
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import hypothesis
import pytest

from tools.auth_core import FAST_TESTS, MODULES, ROOT, TESTS
from tools.mutant_runs import Fate, Forks, InsideFunctions, one_template_database, outside_functions
from tools.mutations import Mutant, mutants

WANTED = 85
"""Percent of all mutants."""
PYTEST = ("-q", "-p", "no:cacheprovider", "--disable-warnings")


@dataclass(slots=True)
class Tally:
    """What became of the mutants of each module. `out` is where pytest captures nothing."""

    out: TextIO
    fates: dict[str, Counter[Fate]] = field(default_factory=dict)

    def hear(self, module: str, mutant: Mutant, fate: Fate) -> None:
        """Count one; print it when no test noticed."""
        self.fates.setdefault(module, Counter())[fate] += 1
        if fate in {Fate.SURVIVED, Fate.NOT_RUN}:
            print(f"{module}:{mutant.line}: {fate.value}: {mutant.what}", file=self.out, flush=True)

    def show(self) -> float:
        """Print the table; return the score in percent."""
        print(f"\n{'module':34}{'mutants':>9}" + "".join(f"{fate.value:>10}" for fate in Fate) + f"{'score':>8}")
        whole: Counter[Fate] = Counter()
        for module, fates in sorted(self.fates.items()):
            whole += fates
            print(_row(module, fates))
        print(_row("all", whole))
        return _score(whole)


def _row(name: str, fates: Counter[Fate]) -> str:
    return f"{name:34}{fates.total():9}" + "".join(f"{fates[fate]:10}" for fate in Fate) + f"{_score(fates):7.1f} %"


def _score(fates: Counter[Fate]) -> float:
    return 100 * (fates[Fate.KILLED] + fates[Fate.ENDLESS]) / max(1, fates.total())


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge mutants; returns 1 below the wanted score."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutants", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="such as authn/totp.py (default: the whole core)")
    parser.add_argument("--fast", action="store_true", help="only tests that need no server")
    parser.add_argument("--sample", type=int, metavar="N", help="at most so many mutants of each module")
    parser.add_argument("--inside", action="store_true", help="leave out what stands outside of functions")
    parser.add_argument("--tests", nargs="*", metavar="FILE", help="other tests than those of the core")
    parser.add_argument("--at-once", type=int, default=2, metavar="N", help="processes (default: 2)")
    parser.add_argument("--budget", type=float, default=20, metavar="SECONDS", help="tests of one mutant (default: 20)")
    asked = parser.parse_args(arguments)
    chosen = [
        (module, mutant)
        for module in asked.modules or MODULES
        for mutant in _sample(list(mutants((ROOT / module).read_text())), asked.sample)
        if mutant.function is not None or not asked.inside
    ]
    tests = asked.tests or (FAST_TESTS if asked.fast else TESTS)
    # What a mutant broke is no example to remember, and need not be made small.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutants", database=None, derandomize=True, deadline=None, phases=phases)
    hypothesis.settings.load_profile("mutants")
    tally = Tally(os.fdopen(os.dup(sys.stdout.fileno()), "w"))
    forks = Forks(asked.at_once, tally.hear)
    with _servers() if set(tests) - set(FAST_TESTS) else contextlib.nullcontext():
        inside = InsideFunctions(chosen, forks, tally.hear, asked.budget)
        with one_template_database():
            ended = pytest.main([*PYTEST, *tests], plugins=[inside])
        if ended not in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
            return int(ended)
        for name in inside.covering.failing:
            print(f"left out, for it fails as things are: {name}")
        outside_functions(chosen, inside.covering, forks, PYTEST, asked.budget)
    return 0 if tally.show() >= WANTED else 1


def _sample(all_of_them: list[Mutant], size: int | None) -> list[Mutant]:
    if size is None or size >= len(all_of_them):
        return all_of_them
    chosen = random.Random(0).sample(range(len(all_of_them)), size)  # the same ones each time
    return [all_of_them[place] for place in sorted(chosen)]


@contextlib.contextmanager
def _servers() -> Iterator[None]:
    """Servers and a migrated database for all runs."""
    from migrations.runner import upgrade
    from tests.support.servers import running_servers, temporary_database

    with (
        tempfile.TemporaryDirectory() as directory,
        running_servers(Path(directory)) as servers,
        temporary_database(servers.postgres_url, "kasbah_template") as url,
    ):
        upgrade(url)
        where = {"DATABASE_URL": servers.postgres_url, "REDIS_URL": servers.redis_url, "TEMPLATE_URL": url}
        os.environ.update({f"KASBAH_{name}": value for name, value in where.items()})
        yield


if __name__ == "__main__":
    sys.exit(main())
