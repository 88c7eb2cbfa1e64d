"""`python -m sod`."""

from sod.cli.main import main

main()
