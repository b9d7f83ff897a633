"""`python -m palate.cli`, as launchers of several processes call it."""

from palate.cli import main

main()
