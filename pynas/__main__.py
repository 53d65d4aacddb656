"""Run the command line: `python -m pynas`."""

from pynas.cli import main

if __name__ == "__main__":
    main()
