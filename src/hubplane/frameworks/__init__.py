"""What one web framework needs of us beyond ASGI; each module is about one, and imports it only when it is used."""
