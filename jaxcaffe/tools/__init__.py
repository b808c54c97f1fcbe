"""Command-line tools; each module has one main(argv)."""
