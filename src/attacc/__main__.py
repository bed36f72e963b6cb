"""``python -m attacc``: the command line."""

from attacc.cli.main import run

if __name__ == "__main__":
    run()
