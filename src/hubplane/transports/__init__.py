"""How a client reaches us: negotiate and the transports' rules, written against `exchange`, for both edges."""
