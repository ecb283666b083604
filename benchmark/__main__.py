"""`python -m bdbench` is the command `bdbench`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the working directory: a file in it may have a library's name

    from bdbench.cli.app import main

    main()
