"""Who hears what happens. Start with `base`; `open_telemetry` is the one room that knows OpenTelemetry."""
