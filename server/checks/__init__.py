"""Parts of the check of a home that are long enough for modules of their own."""
