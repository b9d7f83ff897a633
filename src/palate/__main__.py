"""`python -m palate`, as launchers of several processes call it."""

from palate.cli import main

main()
