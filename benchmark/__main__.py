"""`python -m bdbench` is the command `bdbench`."""

from bdbench.cli.app import main

if __name__ == "__main__":
    main()
