"""The command line `fractal-backends`."""


def main() -> None:
    """Run the command line and exit."""
    from .app import app

    app()
