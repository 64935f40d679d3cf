"""Search: what to try, how long to let it run, and a log of every decision; a function of the study alone."""
