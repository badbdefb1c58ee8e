"""The entry point of ``scaler-sidecar`` and ``python -m scaler_plugin``."""

from __future__ import annotations


def main() -> None:
    """Run the command line; ends the process with the exit code that :mod:`scaler_plugin.errors` lists."""
    from scaler_plugin.cli.app import app  # noqa: PLC0415  (agent and tests import this module without typer)

    app(prog_name="scaler-sidecar")


if __name__ == "__main__":
    main()
