"""`python -m pynas`: the command line."""

from pynas.cli import main

if __name__ == "__main__":
    main()
