"""Whether two models compute the same, and where they do not, which one is wrong."""
