"""Judges mutants: each by the tests that execute its line, in a process that is forked when all else is ready.

pytest collects once, and runs every test once to learn which lines it executes. For a mutant inside of a function, a
fork is given the function's changed code and runs those tests, fastest first, until one fails. What stands outside of
functions was executed at import, so for that a fork imports everything anew.
"""

import ast
import contextlib
import gc
import importlib
import importlib.abc
import importlib.machinery
import os
import pickle
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import pytest
from coverage import Coverage

from tools.auth_core import ROOT
from tools.mutations import Mutant

OURS = ("authn", "authz", "migrations", "service", "tenancy", "tests")
CPU_SECONDS = 20
"""Beside five times what its tests took: a mutant that computes for longer does not end."""
HANG_SECONDS = 120
"""Beside twenty times what its tests took: a mutant that waits for longer is never answered."""


class Fate(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    ENDLESS = "endless"
    """Stopped, because it did not end: noticed, too."""
    SURVIVED = "survived"
    NOT_RUN = "not run"
    """No test executes its line, or the fault could not be put in."""


_FATES = {0: Fate.SURVIVED, 1: Fate.KILLED, 2: Fate.NOT_RUN}


@dataclass(slots=True)
class Covering:
    """Which tests execute which lines of which module, and how many seconds of CPU each test takes."""

    tests: dict[str, dict[int, set[str]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failing: list[str] = field(default_factory=list)
    """Tests that fail without any mutant, and are left out."""

    def of(self, module: str, mutant: Mutant, budget: float) -> list[str]:
        """Return the tests to run on a mutant, fastest first, as many as `budget` seconds have room for."""
        lines = self.tests.get(module, {})
        asked = lines if mutant.function is None else mutant.lines
        found = {name for line in asked for name in lines.get(line, ())}
        if mutant.function is None:
            # What a test reads of a module at import executes no line of it, so its neighbours speak for it.
            files = {name.partition("::")[0] for name in found}
            found = {name for name in self.seconds if name.partition("::")[0] in files} - set(self.failing)
        chosen: list[str] = []
        total = 0.0
        for name in sorted(found, key=lambda name: (self.seconds[name], name)):
            total += self.seconds[name]
            if chosen and total > budget:
                break
            chosen.append(name)
        return chosen


Heard = Callable[[str, Mutant, Fate], None]


class Forks:
    """Processes that each judge one mutant, a few at a time."""

    def __init__(self, at_once: int, heard: Heard) -> None:
        """Keep how many there may be, and who hears what became of each mutant."""
        self._at_once = at_once
        self._heard = heard
        self._running: dict[int, tuple[str, Mutant, float]] = {}

    def judge(self, module: str, mutant: Mutant, seconds: float, killed: Callable[[], bool]) -> None:
        """Ask `killed` in a process of its own, for tests that take so many seconds of CPU."""
        while len(self._running) >= self._at_once:
            self._reap()
        process = os.fork()
        if process == 0:
            _answer(killed, CPU_SECONDS + int(5 * seconds))
        self._running[process] = (module, mutant, time.monotonic() + HANG_SECONDS + 20 * seconds)

    def finish(self) -> None:
        """Wait for all of them."""
        while self._running:
            self._reap()

    def _reap(self) -> None:
        for process, (module, mutant, deadline) in list(self._running.items()):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended == 0:
                if time.monotonic() > deadline:
                    os.kill(process, signal.SIGKILL)
                continue
            del self._running[process]
            if os.WIFSIGNALED(status):
                self._heard(module, mutant, Fate.ENDLESS)
            else:
                self._heard(module, mutant, _FATES[os.WEXITSTATUS(status)])
        time.sleep(0.002)


def _answer(killed: Callable[[], bool], cpu_seconds: int) -> None:
    """End this process with an answer; what goes wrong in asking is no failure of a test."""
    status = 2
    try:
        with Path(os.devnull).open("r+b") as silent:
            for stream in (0, 1, 2):
                os.dup2(silent.fileno(), stream)
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        status = 1 if killed() else 0
    finally:
        os._exit(status)


class InsideFunctions:
    """pytest plugin that learns what each test executes, and judges the mutants inside of functions."""

    def __init__(self, mutants: Sequence[tuple[str, Mutant]], forks: Forks, heard: Heard, budget: float) -> None:
        """Keep what to judge, and how many seconds of tests a mutant may take."""
        self._mutants = mutants
        self._forks = forks
        self._heard = heard
        self._budget = budget
        self._failed = False
        self._silent = False
        self.covering = Covering()

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self) -> tuple[str, str, str] | None:
        """Print no dot for a test of a mutant."""
        return ("", "", "") if self._silent else None

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a failure down."""
        self._failed = self._failed or report.failed

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run every test once, then each mutant's."""
        self.covering = self._learnt_elsewhere(session.items)
        items = {item.nodeid: item for item in session.items}
        for module in {module for module, _ in self._mutants}:
            importlib.import_module(_dotted(module))
        code = _live_functions()
        gc.freeze()
        for module, mutant in self._mutants:
            names = self.covering.of(module, mutant, self._budget)
            if not names:
                self._heard(module, mutant, Fate.NOT_RUN)
            elif mutant.function is not None:
                functions = code[(str(ROOT / module), *mutant.function)]
                chosen = [items[name] for name in names]
                seconds = sum(self.covering.seconds[name] for name in names)
                self._forks.judge(module, mutant, seconds, partial(self._killed, module, mutant, functions, chosen))
        self._forks.finish()
        return True

    def _learnt_elsewhere(self, items: Sequence[pytest.Item]) -> Covering:
        """Run every test once, in a fork: what tests leave behind (in caches, say) would hide mutants from others."""
        with tempfile.NamedTemporaryFile() as answer:
            process = os.fork()
            if process == 0:
                try:
                    Path(answer.name).write_bytes(pickle.dumps(self._learnt(items)))
                finally:
                    os._exit(0)
            os.waitpid(process, 0)
            learnt = pickle.loads(Path(answer.name).read_bytes())
        if not isinstance(learnt, Covering):
            raise TypeError("the tests did not come to their end")
        return learnt

    def _learnt(self, items: Sequence[pytest.Item]) -> Covering:
        covering = Covering()
        watched = sorted({str(ROOT / module) for module, _ in self._mutants})
        measured = Coverage(data_file=None, config_file=False, include=watched, concurrency=["greenlet", "thread"])
        failing = set()
        measured.start()
        for item, following in zip(items, [*items[1:], items[0]], strict=True):
            measured.switch_context(item.nodeid)
            begun = time.process_time()
            if self._fails(item, following):
                failing.add(item.nodeid)
            covering.seconds[item.nodeid] = time.process_time() - begun
        measured.stop()
        data = measured.get_data()
        for path in data.measured_files():
            covering.tests[str(Path(path).relative_to(ROOT))] = {
                line: set(names) - {""} - failing for line, names in data.contexts_by_lineno(path).items()
            }
        covering.failing = sorted(failing)
        return covering

    def _killed(self, module: str, mutant: Mutant, functions: Sequence[FunctionType], items: list[pytest.Item]) -> bool:
        self._silent = True
        changed = _code_of(mutant, str(ROOT / module))
        for function in functions:
            function.__code__ = changed
        # What ends last ends its module and no more: the servers are everybody's.
        last = next((item for item in items[0].session.items if item.path != items[-1].path), items[-1])
        return any(self._fails(item, then) for item, then in zip(items, [*items[1:], last], strict=True))

    def _fails(self, item: pytest.Item, following: pytest.Item) -> bool:
        self._failed = False
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        return self._failed


def _dotted(module: str) -> str:
    return module.removesuffix(".py").replace("/", ".")


def _live_functions() -> dict[tuple[str, str, int], list[FunctionType]]:
    """Return every function there is by the file, qualified name and first line of its code."""
    found: dict[tuple[str, str, int], list[FunctionType]] = {}
    for thing in gc.get_objects():
        if isinstance(thing, FunctionType):
            code = thing.__code__
            found.setdefault((code.co_filename, code.co_qualname, code.co_firstlineno), []).append(thing)
    return found


def _code_of(mutant: Mutant, path: str) -> CodeType:
    """Return the changed code of the function that a mutant is in."""
    waiting: list[CodeType] = [compile(mutant.tree, path, "exec", dont_inherit=True)]
    while waiting:
        code = waiting.pop()
        if (code.co_qualname, code.co_firstlineno) == mutant.function:
            return code
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    raise LookupError(mutant.function)


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a changed tree."""

    def __init__(self, name: str, path: str, tree: ast.Module) -> None:
        self._name = name
        self._path = path
        self._tree = tree

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if fullname != self._name:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin=self._path)

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = self._path
        exec(compile(self._tree, self._path, "exec", dont_inherit=True), module.__dict__)


def outside_functions(
    mutants: Sequence[tuple[str, Mutant]], covering: Covering, forks: Forks, options: Sequence[str], budget: float
) -> None:
    """Judge mutants that only a new import shows; those that no test executes were judged before."""
    for module, mutant in mutants:
        names = covering.of(module, mutant, budget)
        if names and mutant.function is None:
            seconds = sum(covering.seconds[name] for name in names)
            forks.judge(module, mutant, seconds, partial(_killed_anew, module, mutant, [*options, "-x", *names]))
    forks.finish()


def _killed_anew(module: str, mutant: Mutant, arguments: list[str]) -> bool:
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    sys.meta_path.insert(0, _Changed(_dotted(module), str(ROOT / module), mutant.tree))
    with one_template_database():
        return pytest.main(arguments) != 0


@contextlib.contextmanager
def one_template_database() -> Iterator[None]:
    """Let every run copy its databases from the template that was made before, when there is one."""
    template = os.environ.get("KASBAH_TEMPLATE_URL")
    if template is None:
        yield
        return
    from migrations import runner
    from tests.support import servers

    made, upgrade = servers.temporary_database, runner.upgrade

    @contextlib.contextmanager
    def copied(server_url: str, prefix: str, source: str | None = None) -> Iterator[str]:
        if prefix == "kasbah_template":
            yield template
        else:
            with made(server_url, prefix, source) as url:
                yield url

    def brought_up(url: str) -> list[str]:
        return [] if url == template else upgrade(url)

    servers.temporary_database = copied  # type: ignore[assignment]  # the same but for the names of its arguments
    runner.upgrade = brought_up
    yield
