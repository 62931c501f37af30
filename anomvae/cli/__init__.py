"""The command line. Every command's heavy imports stay inside it, so that `--help` is quick and scoring needs no torch."""

from anomvae.cli.app import main

__all__ = ["main"]
