"""Ray: the only package that imports it. Everything below runs, and is tested, without."""
