"""`python -m boomerang_core`: the offline commands where the server is not installed."""

from boomerang_core.cli import app

if __name__ == "__main__":
    app(prog_name="boomerang")
