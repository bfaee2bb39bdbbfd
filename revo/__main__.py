"""placeholder until the command line lands"""

import sys


def main() -> int:
    import uvloop

    from actors.host import run

    args = sys.argv[2:]
    name = args[args.index("--name") + 1] if "--name" in args else None
    return run(args[0], name=name, runner=uvloop.run)


if __name__ == "__main__":
    sys.exit(main())
