"""How much of a number is luck: one recipe under several seeds."""
