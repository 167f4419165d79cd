"""The policy directory: `model.conf`, `_base/policy.csv`, `<tenant>/{policy.csv,entities.yaml,cases.yaml}`."""

from authz.policy_files.columns import PolicyColumns, read_columns
from authz.policy_files.directory import DirectoryError, git_commit_of, read_directory
from authz.policy_files.documents import parse_cases, parse_entities
from authz.policy_files.export import UnwritableRowError, write_entities, write_policy_csv
from authz.policy_files.rows import parse_policy
from authz.policy_files.times import format_time, parse_time
from authz.policy_files.values import GoldenCase, PolicyDirectory, TenantFiles

__all__ = [
    "DirectoryError",
    "GoldenCase",
    "PolicyColumns",
    "PolicyDirectory",
    "TenantFiles",
    "UnwritableRowError",
    "format_time",
    "git_commit_of",
    "parse_cases",
    "parse_entities",
    "parse_policy",
    "parse_time",
    "read_columns",
    "read_directory",
    "write_entities",
    "write_policy_csv",
]
