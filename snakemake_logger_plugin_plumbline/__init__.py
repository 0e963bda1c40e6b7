"""Plumbline's console, where Snakemake looks for it: `--logger plumbline`, which `make results` says."""

from workflow_scripts.console.handler import LogHandler

__all__ = ["LogHandler"]
