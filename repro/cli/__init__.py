"""The command line: a thin client of the library. The only user of rich and click."""
