"""Many runs of one project that was captured once: so many at a time, each in a folder of its own."""
