"""`python -m benchmarks [NAME …]`: run benchmarks, print their tables, compare with what was promised."""

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.machine import about
from benchmarks.report import Result, save, say, show

BENCHMARKS = {
    "engine": "one decision in process, from 100 to 1,000,000 rules, beside PyCasbin",
    "over_http": "decisions over HTTP on one core, beside bare aiohttp and PyCasbin behind aiohttp",
    "cold": "the first answer about a tenant that the node does not hold",
    "memory": "a node's memory and start with 1,000 tenants of 10,000 members each",
    "propagation": "how soon a change through one process is used by another",
    "stall": "answers about another tenant while one of 100,000 rules is planned, applied, rolled back and exported",
    "small_writes": "answers about a tenant of 10,000 rules while it changes ten times a second",
    "sign_in_flood": "decisions while ten times as many people sign in as passwords can be hashed",
    "sign_in_timing": "whether the time of a refused sign-in tells who has an account",
    "policy_import": "lint, plan and apply of 100,000 rules",
}


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for. Returns 1 when a promised number was missed and `--strict` was given."""
    names = "\n".join(f"  {name:12} {text}" for name, text in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure Kasbah on this machine.",
        epilog=f"benchmarks:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", choices=[*BENCHMARKS, []], help="which to run (default: all)"
    )
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer rounds: a few minutes in all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure as JSON")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a promised number is missed")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark is called {unknown[0]}; there are {', '.join(BENCHMARKS)}")
    machine = about()
    results: list[Result] = []
    for name in options.names or BENCHMARKS:
        say(f"{name}: {BENCHMARKS[name]}")
        run: Callable[..., Result] = importlib.import_module(f"benchmarks.{name}").run
        results.append(run(quick=options.quick))
    show(results, machine)
    if options.json is not None:
        save(options.json, results, machine)
    missed = [check for result in results for check in result.checks if not check.met]
    return 1 if missed and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
