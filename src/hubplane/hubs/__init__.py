"""What the application writes, and what runs it: hubs, their methods, clients, groups, filters. Imports floors 0-3.

Start at `hub`, `clients` and `context` (what applications see), then `methods`, `dispatcher` and `pipeline` (a plain
call), then `background` and `streaming` (a call with streams).
"""
