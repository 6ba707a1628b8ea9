"""The leaderboard as a static site: works from `file://` and from any static host, and makes no request elsewhere."""

from refusal_bench.leaderboard.site.build import build_site, check_replaceable

__all__ = ["build_site", "check_replaceable"]
