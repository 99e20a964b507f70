"""Anomalies of recorded runs: not finite, about to overflow, overwritten, not repeatable."""

from llmdbg.scan.model import Finding, Level, Scan
from llmdbg.scan.scanner import scan

__all__ = ["Finding", "Level", "Scan", "scan"]
