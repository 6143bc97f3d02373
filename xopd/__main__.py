"""`python -m xopd` is the `xopd` command."""

from xopd.cli.main import main

if __name__ == "__main__":
    main()
