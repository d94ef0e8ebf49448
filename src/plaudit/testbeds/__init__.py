"""Small worlds whose true utility is known, in which every method can be tried in a minute and held to the truth."""
