"""The command `revo`.

`revo run` is what a pod starts, so it goes past all that it does not need: the terminal's libraries stay unloaded.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line and return its exit status."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["run"] and not {"--help", "-h"} & set(arguments):
        from revo.cli.run import main as run

        return run(arguments[1:])
    from revo.cli.app import main as app

    return app(arguments)


if __name__ == "__main__":
    sys.exit(main())
