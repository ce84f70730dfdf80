"""torch's own suites, run with a backend named on the command line: see README.md."""
