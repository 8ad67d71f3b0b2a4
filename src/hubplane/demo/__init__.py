"""The demo: a chat across two nodes, with the page to look at. `hubplane demo` runs it; start reading in `app.py`."""
