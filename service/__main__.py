"""`python -m service` and the command `kasbah`."""

from service.cli.root import root


def main() -> None:
    """Run the command line."""
    root(prog_name="kasbah")


if __name__ == "__main__":
    main()
