"""Entry of ``python -m swarm`` and of the ``swarm`` command."""

from swarm.cli.app import main

if __name__ == "__main__":
    main()
