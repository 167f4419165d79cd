"""The repository itself: locks with hashes, pages that match the code, no host of a registry, one version."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
import yaml

from service.settings_page import render
from tests.support.paths import ROOT

LOCKS = ("requirements/run.txt", "requirements/dev.txt")
PRODUCT = ("authn", "authz", "migrations", "service", "tenancy")


def tracked_files() -> list[str]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    return [name for name in done.stdout.split("\0") if name]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_hashes(lock):
    """Nothing is installed that was not seen when the lock was made."""
    lines = (ROOT / lock).read_text().replace("\\\n", " ").splitlines()
    pinned = [line for line in lines if line and not line.lstrip().startswith("#")]
    assert len(pinned) > 30
    assert [line for line in pinned if not re.match(r"^[A-Za-z0-9_.-]+==\S+.*--hash=sha256:[0-9a-f]{64}", line)] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_hold_what_the_project_needs(lock):
    """A dependency that was added without `make lock` is found here, not on a fresh machine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *extras["embedded"], *extras["build"]]
    if lock.endswith("dev.txt"):
        wanted += [need for need in extras["dev"] if not need.startswith("kasbah")]
    locked = {
        name.lower().replace("_", "-")
        for name in re.findall(r"^([A-Za-z0-9_.-]+)==", (ROOT / lock).read_text(), re.MULTILINE)
    }
    needed = {re.match(r"[A-Za-z0-9_.-]+", need).group().lower().replace("_", "-") for need in wanted}
    assert needed - locked == set()


def test_both_locks_agree():
    """What is tested is what runs."""

    def pins(lock):
        return dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", (ROOT / lock).read_text(), re.MULTILINE))

    run, dev = pins(LOCKS[0]), pins(LOCKS[1])
    assert {name: (version, dev.get(name)) for name, version in run.items() if dev.get(name) != version} == {}


def imported_libraries() -> dict[str, set[str]]:
    """Return what the product imports from others, and in which files."""
    found: dict[str, set[str]] = {}
    for path in (path for package in PRODUCT for path in sorted((ROOT / package).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=aliases):
                    names = [alias.name for alias in aliases]
                case ast.ImportFrom(module=str(module), level=0):
                    names = [module]
                case _:
                    continue
            for root in {name.partition(".")[0] for name in names} - {*PRODUCT, *sys.stdlib_module_names}:
                found.setdefault(root, set()).add(str(path.relative_to(ROOT)))
    return found


def test_every_imported_library_is_declared():
    """What comes only because another package wants it may go, or change, with that package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["embedded"]]
    declared = {normal(re.match(r"[A-Za-z0-9_.-]+", need).group()) for need in wanted}
    distributions = packages_distributions()
    imported = imported_libraries()
    assert {"aiohttp", "casbin", "sqlalchemy"} <= imported.keys()
    undeclared = {
        library: sorted(files)
        for library, files in imported.items()
        if not {normal(name) for name in distributions.get(library, [library])} & declared
    }
    assert undeclared == {}


def normal(name: str) -> str:
    """Return the name of a package as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_configuration_page_is_that_of_the_settings():
    """`make docs` was run after the settings changed."""
    assert (ROOT / "docs/configuration.md").read_text() == render()


def test_every_setting_is_explained():
    """A reader of the page knows what each variable does."""
    unexplained = re.findall(r"^\| `(KASBAH_\w+)` \|[^|]*\|\s*\|$", render(), re.MULTILINE)
    assert unexplained == []


def test_every_decision_record_is_numbered_once_and_listed():
    """The index names each record with its status, in order and without gap."""
    records = sorted(path for path in (ROOT / "docs/adr").glob("*.md") if path.name != "README.md")
    listed = re.findall(
        r"^\| \[(\d{4})\]\((\S+)\) \| ([^|]+?) \| \S[^|]* \|$", (ROOT / "docs/adr/README.md").read_text(), re.MULTILINE
    )
    assert [(number, name) for number, name, _ in listed] == [(path.name[:4], path.name) for path in records]
    assert [int(number) for number, _, _ in listed] == list(range(1, len(records) + 1))
    for path, (number, _, status) in zip(records, listed, strict=True):
        title, _, said, *_ = path.read_text().splitlines()
        assert title.startswith(f"# {int(number)}. "), path.name
        assert said == f"Status: {status}.", path.name


def test_manifests_are_valid_yaml():
    """Every document of deploy/ parses and names its kind."""
    documents = [
        (path, document)
        for path in sorted((ROOT / "deploy").rglob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]
    assert documents
    for path, document in documents:
        assert document["kind"], path
        assert document["apiVersion"], path


def test_makefile_lists_the_promised_targets():
    """`make help` shows each of them."""
    done = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    promised = "help install fmt lint types test test-all golden migrate migration-check openapi-check audit loadtest run check"
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.strip()}
    assert set(promised.split()) - listed == set()


def test_ci_runs_the_readme_test_command():
    """One way to test, for people and for CI."""
    assert "make test" in (ROOT / ".ci/run").read_text().splitlines()
    assert "make test" in (ROOT / "README.md").read_text()


def test_no_file_is_huge_or_binary():
    """Only text of a reviewable size is committed."""
    for name in tracked_files():
        path = ROOT / name
        if path.is_file():
            assert path.stat().st_size < 2_000_000, name
            assert b"\0" not in path.read_bytes()[:4096], name
