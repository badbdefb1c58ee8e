"""Structured logs on stderr: readable lines on a terminal, one JSON object a line elsewhere (the journal)."""

from __future__ import annotations

import logging
import sys

import structlog


def configure_logs(verbose: bool = False, quiet: bool = False) -> None:
    """Set structlog up for this process. Called once by each long-running command; ``quiet`` leaves only errors."""
    terminal = sys.stderr.isatty()
    renderer: structlog.typing.Processor
    renderer = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    level = logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
