"""Tools for testing hubs, backplanes and lifetime managers."""
