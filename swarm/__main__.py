"""Entry of ``python -m swarm`` and of the ``swarm`` command."""

from __future__ import annotations

import sys

EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command line; Ctrl-C before a command runs, while its code is imported, ends it too."""
    try:
        from swarm.cli.app import main as run

        run()
    except KeyboardInterrupt:
        print("swarm: stopped", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None


if __name__ == "__main__":
    main()
