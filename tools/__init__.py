"""Set-up only: standard library, Python 3.9 syntax and up, nothing of it is installed or imported by the project."""
