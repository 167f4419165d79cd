"""Which policy directory a command means: read as it is, or refused with what was probably meant."""

from collections.abc import Sequence
from pathlib import Path

from authz.policy_files import DirectoryError, PolicyDirectory, read_directory
from authz.policy_files.values import POLICY_FILE
from service.cli.output import ExitCode, fail


def read_policies(directory: Path, tenants: Sequence[str]) -> PolicyDirectory:
    """Return what was read of `directory`; one that cannot be read, or holds no policy, ends the command.

    A check that passes because it looked at nothing is taken for one that passed.
    """
    try:
        read = read_directory(directory, tenants=tenants or None)
    except DirectoryError as error:
        fail(str(error), ExitCode.USAGE)
    if not (tenants or read.tenants or read.base.present or read.has_errors):
        fail(f"`{directory}` holds no tenant: {_meant(directory)}", ExitCode.USAGE)
    return read


def _meant(directory: Path) -> str:
    if (directory / POLICY_FILE).is_file():
        return "it is a tenant's own directory; name the one above it"
    for below in sorted(directory.glob(f"*/*/{POLICY_FILE}")):
        return f"did you mean `{below.parent.parent}`?"
    return f"a tenant is a directory with a {POLICY_FILE}, named for its slug"
