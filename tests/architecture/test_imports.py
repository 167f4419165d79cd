"""Packages import in one direction, and pure modules stay pure."""

import re
from fnmatch import fnmatch

import grimp
import pytest

from tests.support.paths import ROOT

PACKAGES = ("authn", "authz", "service", "tenancy")
IMPURE = frozenset(
    {
        "aiohttp",
        "asyncio",
        "casbin",
        "click",
        "http",
        "multiprocessing",
        "psycopg",
        "pydantic_settings",
        "random",
        "redis",
        "requests",
        "rich",
        "secrets",
        "socket",
        "sqlalchemy",
        "subprocess",
        "threading",
        "time",
        "urllib",
        "uvloop",
    }
)
"""I/O, frameworks, clocks and chance: time and randomness are arguments of pure code."""

READ_FILES = "authz.policy_files"
ON_READ_FILES = ("authz.lint", "authz.golden")
"""These work on the values that `policy_files` has read; that package also reads."""


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph(
        *PACKAGES, include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )


def documented_pure_modules(existing) -> set[str]:
    """Return the modules that docs/architecture.md calls pure, as far as they exist."""
    named = set()
    for package, section in re.findall(
        r"^## (\w+)\n(.*?)(?=^## |\Z)", (ROOT / "docs/architecture.md").read_text(), re.DOTALL | re.MULTILINE
    ):
        for names, kind in re.findall(r"^\| (`[^|]*`) \|[^|]*\| ([^|]*) \|$", section, re.MULTILINE):
            if kind.strip() == "pure":
                named |= {f"{package}.{name}" for name in re.findall(r"`([\w.]+)`", names)}
    return {module for module in named if module in existing} | {
        module for module in existing for name in named if module.startswith(f"{name}.")
    }


def test_pure_modules_import_nothing_impure(graph):
    """Not directly and not through another of our modules."""
    pure = documented_pure_modules(graph.modules)
    assert len(pure) >= 8, "docs/architecture.md names the pure modules"
    offences = []
    for module in sorted(pure):
        for imported in sorted(graph.find_modules_directly_imported_by(module)):
            root = imported.partition(".")[0]
            if root in IMPURE:
                offences.append(f"{module} imports {imported}")
            elif (
                root in PACKAGES
                and imported not in pure
                and not imported.endswith("errors")
                and imported not in PACKAGES
            ):
                if imported.startswith(READ_FILES) and module.startswith(ON_READ_FILES):
                    continue
                chain = next(
                    (chain for bad in sorted(IMPURE) if (chain := _chain(graph, imported, bad)) is not None), None
                )
                if chain is not None:
                    offences.append(f"{module} reaches {' -> '.join(chain)}")
    assert not offences, "\n".join(offences)


def test_every_module_stands_in_the_map():
    """Who looks for a thing finds its module in docs/architecture.md; a line there names a module that exists."""
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    for package in ("authz", "service", "tenancy"):
        sections = re.findall(rf"^## {package}\b.*?\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
        cells = [row.split("|")[1] for section in sections for row in section.splitlines() if row.startswith("| `")]
        named = {name.rstrip("/") for cell in cells for name in re.findall(r"`([\w/*]+)`", cell)}
        paths = [path.relative_to(ROOT / package) for path in (ROOT / package).rglob("*.py")]
        modules = {path.with_suffix("").as_posix() for path in paths if not path.name.startswith("__")}
        for module in sorted(modules):
            within = module.partition("/")[0]
            assert any(fnmatch(module, name) for name in named) or within in named, f"{package}/{module}"
        for name in sorted(named):
            folder = (ROOT / package / name).is_dir()
            assert folder or any(fnmatch(module, name) for module in modules), f"{package}/{name} is not there"


def _chain(graph, importer: str, imported: str):
    return graph.find_shortest_chain(importer, imported) if imported in graph.modules else None


def test_casbin_stays_in_one_module(graph):
    """PyCasbin is the oracle and the parser of model files; nothing else may lean on it."""
    importers = set(graph.find_modules_that_directly_import("casbin"))
    assert importers <= {"authz.casbin_oracle"}


def test_models_are_compiled_in_one_place(graph):
    """Files, plans, nodes and administration read a model in the same way, and know it by the same digest."""
    importers = set(graph.find_modules_that_directly_import("authz.compiler"))
    makers = {
        detail["importer"]
        for importer in importers
        for detail in graph.get_import_details(importer=importer, imported="authz.compiler")
        if "compile_served" in detail["line_contents"]
    }
    assert makers == {"authz.compile_model"}


def test_only_the_edge_knows_http(graph):
    """aiohttp, click and rich are imported by `service` alone."""
    for library in ("aiohttp", "click", "rich", "prometheus_client"):
        if library in graph.modules:
            importers = graph.find_modules_that_directly_import(library)
            assert {module.partition(".")[0] for module in importers} <= {"service"}, library


def test_only_the_command_line_imports_the_command_line(graph):
    """What a command does can be used without it."""
    offences = [
        f"{importer} imports {module}"
        for module in graph.modules
        if module == "service.cli" or module.startswith("service.cli.")
        for importer in graph.find_modules_that_directly_import(module)
        if not importer.startswith("service.cli") and importer != "service.__main__"
    ]
    assert not offences
