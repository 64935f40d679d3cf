"""What will not hold, found before a long run: the text of the script and its modules, and what surrounds them."""
