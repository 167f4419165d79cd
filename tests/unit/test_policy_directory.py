"""Reading a directory from disk: nothing outside of it, nothing too large, half of it when only half is good."""

import importlib
import os
import subprocess

import pytest

import authz.policy_files.directory as directory_module
from authz.default_model import DEFAULT_MODEL_TEXT
from authz.policy_files import DirectoryError, git_commit_of, read_directory
from tests.support.paths import ROOT

MODEL = (ROOT / "policies" / "model.conf").read_text()
RULE = "p, role:a, acme, record:1, read\n"


@pytest.fixture
def root(tmp_path):
    policies = tmp_path / "policies"
    (policies / "acme").mkdir(parents=True)
    (policies / "model.conf").write_text(MODEL)
    (policies / "acme" / "policy.csv").write_text(RULE)
    return policies


def findings(root):
    return [(f.file, f.line, f.column, f.code, f.is_error) for f in read_directory(root).all_findings]


def test_a_directory_is_read(root):
    """Model, base and tenants, with no finding for a good one; a base may be absent."""
    read = read_directory(root)
    assert read.all_findings == ()
    assert not read.has_errors
    assert read.model_text == MODEL
    assert (list(read.tenants), read.base.present, read.base.rows) == (["acme"], False, ())
    assert [str(row.source) for row in read.tenants["acme"].rows] == ["policy.csv:1"]


def test_rows_come_in_line_order(root):
    """Rules and links keep the order of the file, which priority effects need."""
    (root / "acme" / "policy.csv").write_text("g, user:x, role:a, acme\n" + RULE + "g, user:y, role:a, acme\n")
    assert [row.source.line for row in read_directory(root).tenants["acme"].rows] == [1, 2, 3]


@pytest.mark.parametrize("name", ["missing", "model.conf"])
def test_what_is_no_directory_is_an_error(root, name):
    """There is nothing to report about what cannot be listed."""
    with pytest.raises(DirectoryError):
        read_directory(root / name)


def test_half_a_directory_is_half_read(root):
    """A broken tenant keeps no other from being read, and is itself marked."""
    (root / "globex").mkdir()
    (root / "globex" / "policy.csv").write_text("p, role:a, globex, record:1, read\nbroken\n")
    (root / "globex" / "cases.yaml").write_text("- [")
    read = read_directory(root)
    assert [(f.file, f.line, f.code) for f in read.all_findings] == [
        ("globex/cases.yaml", 1, "yaml"),
        ("globex/policy.csv", 2, "unknown-kind"),
    ]
    assert not read.tenants["acme"].has_errors
    assert read.tenants["globex"].has_errors
    assert read.has_errors


def test_only_named_tenants_are_read(root):
    """Others are not even looked at."""
    (root / "globex").mkdir()
    (root / "globex" / "policy.csv").write_text("broken\n")
    read = read_directory(root, tenants=["acme"])
    assert (list(read.tenants), read.all_findings) == (["acme"], ())


def test_names_of_directories_are_slugs(root):
    """A directory that cannot be a tenant is an error when it holds policy files, and said to be left out when not."""
    for name in ("Globex", "admin", "_platform", ".hidden", "docs"):
        (root / name).mkdir()
    for name in ("Globex", "admin", "_platform", ".hidden"):
        (root / name / "policy.csv").write_text("")
    assert findings(root) == [
        ("Globex", 1, 1, "bad-slug", True),
        ("_platform", 1, 1, "bad-slug", True),
        ("admin", 1, 1, "bad-slug", True),
        ("docs", 1, 1, "not-a-tenant", False),
    ]


def test_a_tenant_without_rules_file_is_an_error(root):
    """Taking all rules away is said by an empty file, not by a lost one."""
    (root / "acme" / "policy.csv").unlink()
    (root / "acme" / "entities.yaml").write_text("subjects: {}\n")
    assert findings(root) == [("acme/policy.csv", 1, 1, "missing-file", True)]
    (root / "acme" / "policy.csv").write_text("")
    assert findings(root) == []


def test_a_directory_without_model_is_read_under_the_default_one(root):
    """Tenants alone are a policy directory; whether the server has the default model is seen when planning."""
    (root / "model.conf").unlink()
    read = read_directory(root)
    assert findings(root) == []
    assert not read.model_present
    assert read.model_text == DEFAULT_MODEL_TEXT


def test_the_default_model_is_that_of_a_new_installation_and_of_the_samples():
    """One model, written in three places that must not part."""
    assert importlib.import_module("migrations.versions.0001_policy").MODEL_TEXT == DEFAULT_MODEL_TEXT
    assert (ROOT / "policies" / "model.conf").read_text() == DEFAULT_MODEL_TEXT


def test_misspelt_files_are_noticed(root):
    """A file that is nearly one of the three is read by nobody."""
    (root / "acme" / "entity.yaml").write_text("")
    (root / "acme" / "cases.yml").write_text("")
    (root / "acme" / "notes.txt").write_text("")
    assert [(file, code, error) for file, _, _, code, error in findings(root)] == [
        ("acme/cases.yml", "unknown-file", False),
        ("acme/entity.yaml", "unknown-file", False),
    ]


def test_the_base_has_no_entities(root):
    """Attributes belong to a tenant."""
    (root / "_base").mkdir()
    (root / "_base" / "policy.csv").write_text("p, role:a, *, kasbah:x, read\n")
    (root / "_base" / "entities.yaml").write_text("subjects: {user:a: {}}\n")
    read = read_directory(root)
    assert [(f.file, f.code) for f in read.all_findings] == [("_base/entities.yaml", "base-entities")]
    assert read.base.present
    assert len(read.base.rows) == 1


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../../secret.csv", "/dev/zero", "/proc/self/environ", "missing.csv"]
)
def test_no_link_leads_out(root, target):
    """A link out of the directory is reported and not followed, wherever it leads."""
    (root.parent / "secret.csv").write_text(RULE)
    (root / "acme" / "policy.csv").unlink()
    (root / "acme" / "policy.csv").symlink_to(target)
    read = read_directory(root)
    (finding,) = read.all_findings
    assert (finding.file, finding.code) == ("acme/policy.csv", "symlink" if target != "missing.csv" else "unreadable")
    assert finding.is_error
    assert read.tenants["acme"].rows == ()


def test_no_directory_leads_out(root):
    """Neither does a linked directory."""
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "policy.csv").write_text(RULE.replace("acme", "globex"))
    (root / "globex").symlink_to(outside)
    read = read_directory(root)
    assert [(f.file, f.code) for f in read.all_findings] == [("globex", "symlink")]
    assert "globex" not in read.tenants


def test_links_inside_are_followed(root):
    """Mounted configuration often is a link to a versioned directory beside it, and so may the root be."""
    (root / "acme" / "policy.csv").rename(root / "acme" / "v1.csv")
    (root / "acme" / "policy.csv").symlink_to("v1.csv")
    link = root.parent / "current"
    link.symlink_to(root)
    read = read_directory(link)
    assert read.all_findings == ()
    assert len(read.tenants["acme"].rows) == 1


def test_loops_of_links_end(root):
    """A link to itself is an error."""
    (root / "acme" / "policy.csv").unlink()
    (root / "acme" / "policy.csv").symlink_to("policy.csv")
    assert [(file, error) for file, *_, error in findings(root)] == [("acme/policy.csv", True)]


def test_pipes_and_directories_are_not_read(root):
    """Only regular files are: a pipe would wait for ever."""
    (root / "acme" / "policy.csv").unlink()
    os.mkfifo(root / "acme" / "policy.csv")
    (root / "acme" / "cases.yaml").mkdir()
    assert [(file, code) for file, _, _, code, _ in findings(root)] == [
        ("acme/cases.yaml", "unreadable"),
        ("acme/policy.csv", "unreadable"),
    ]


def test_files_have_a_limit(root, monkeypatch):
    """One byte too many is too many, and is not read."""
    monkeypatch.setattr(directory_module, "MAX_CSV_BYTES", len(RULE))
    assert findings(root) == []
    (root / "acme" / "policy.csv").write_text(RULE + "\n")
    assert [(file, code) for file, _, _, code, _ in findings(root)] == [("acme/policy.csv", "too-large")]


def test_text_is_utf8(root):
    """The first byte that is not UTF-8 is named; a byte order mark is no part of the text."""
    (root / "acme" / "policy.csv").write_bytes(RULE.encode() + b"p, role:\xc3\xa9\xff, acme\n")
    assert findings(root) == [("acme/policy.csv", 2, 10, "encoding", True)]
    (root / "acme" / "policy.csv").write_bytes(b"\xef\xbb\xbf" + RULE.encode())
    assert findings(root) == []


def git(root, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)


def test_the_commit_is_that_of_the_work_tree(root, monkeypatch):
    """None without a repository or a commit; marked when files differ from the commit."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent))
    assert git_commit_of(root) is None
    git(root, "init", "-q")
    assert git_commit_of(root) is None
    git(root, "add", ".")
    git(root, "commit", "-qm", "one")
    commit = git_commit_of(root)
    assert commit is not None
    assert len(commit) == 40
    assert git_commit_of(root / "acme") == commit
    (root / "acme" / "policy.csv").write_text("")
    assert git_commit_of(root) == f"{commit}-dirty"
    assert git_commit_of(root / "nowhere") is None


def test_a_repository_cannot_make_us_run_its_programs(root):
    """`core.fsmonitor` and hooks of a checkout are not ours to run."""
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "one")
    program = root.parent / "program"
    program.write_text(f"#!/bin/sh\ntouch {root.parent}/ran\n")
    program.chmod(0o755)
    git(root, "config", "core.fsmonitor", str(program))
    assert git_commit_of(root) is not None
    assert not (root.parent / "ran").exists()
