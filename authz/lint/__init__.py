"""Everything that is wrong, or looks wrong, in a policy directory: all findings, each with its place and a hint."""

from authz.lint.checks import LintLimits, lint

__all__ = ["LintLimits", "lint"]
