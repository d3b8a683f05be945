"""Ten years of licenses with the real programs, in a world whose clock is a file."""
