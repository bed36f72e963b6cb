"""``python -m attacc``: the command line."""

from attacc.cli.entry import run

if __name__ == "__main__":
    run()
