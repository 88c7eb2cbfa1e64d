"""`python -m sod`."""

from sod.cli import main

main()
