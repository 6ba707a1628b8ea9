"""`python -m refusal_bench`."""

from refusal_bench.cli import main

main()
