"""Who sends a request, and from which page; whether they may is decided by `hubs` and `endpoint`."""
