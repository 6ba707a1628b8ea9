"""The report of one run: a single HTML file that needs nothing but a browser."""

from refusal_bench.report.html import write_report

__all__ = ["write_report"]
