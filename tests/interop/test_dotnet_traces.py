"""Microsoft's .NET client, traced, on a traced hubplane node."""

from __future__ import annotations

from pathlib import Path

import pytest
from opentelemetry import trace
from tests.integration.edges import EDGES, serving
from tests.integration.observed import Observed
from tests.interop.dotnet import DotnetClient


@pytest.mark.row("B155", "B158")
@pytest.mark.parametrize("protocol", ["json", "messagepack"])
def test_the_trace_of_the_dotnet_client_goes_on(
    run: str, protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The headers that a traced .NET client sends with its calls make each call a span of that client's trace."""
    # .NET makes activities where somebody listens; its own recorder is the listener that needs no code.
    monkeypatch.setenv("DOTNET_EnableDiagnostics", "1")
    monkeypatch.setenv("DOTNET_EnableEventPipe", "1")
    monkeypatch.setenv("DOTNET_EventPipeOutputPath", str(tmp_path / "client.nettrace"))
    provider = 'Microsoft-Diagnostics-DiagnosticSource:0x3:5:FilterAndPayloadSpecs="[AS]*"'
    monkeypatch.setenv("DOTNET_EventPipeConfig", provider)
    app = Observed()
    with serving(app, EDGES[1]) as server, DotnetClient(run, f"{server.url}/hub", protocol) as client:
        inside = [client.invoke(method) for method in ("Where", "Where", "WhereInThread")]
        client.leave()
    spans = [*app.spans("Where"), *app.spans("WhereInThread")]
    assert len(spans) == 3
    for span, trace_id in zip(spans, inside, strict=True):
        assert span.parent is not None
        assert span.parent.is_remote
        assert trace.format_trace_id(span.parent.trace_id) == trace_id
