"""The parts of the page of results; see docs/results.py."""
