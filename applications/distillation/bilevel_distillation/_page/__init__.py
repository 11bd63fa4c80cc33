"""The page of a run: one HTML file that needs nothing but a browser."""

from ._report import report as report
