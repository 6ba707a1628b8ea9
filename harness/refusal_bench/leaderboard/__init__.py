"""The leaderboard: records in a folder, the tables derived from them, and checks that no record contradicts itself."""

from refusal_bench.leaderboard.store import add_record, load_records, table_faults
from refusal_bench.leaderboard.validation import disagreements

__all__ = ["add_record", "disagreements", "load_records", "table_faults"]
