// Microsoft's JavaScript client, driven by one JSON object a line on stdin, telling all it sees on stdout.
//
//   {"id":1,"cmd":"connect","client":"c1","url":URL,"protocol":"json","token":"user:ann","reconnect":[0,100]}
//   {"id":2,"cmd":"on","client":"c1","method":"ReceiveMessage"}       then {"event":"message","client","method","args"}
//   {"id":3,"cmd":"invoke","client":"c1","method":"Add","args":[1,2]}  then {"event":"result","id":3,"value":3} or "error"
//   send, stream (then stream_item and stream_end), cancel, stop, state
//
// Commands are started in the order of their lines and do not wait for each other.

import { createInterface } from "node:readline";
import { HttpTransportType, HubConnectionBuilder, LogLevel } from "@microsoft/signalr";
import { MessagePackHubProtocol } from "@microsoft/signalr-protocol-msgpack";

const TRANSPORTS = {
  any: undefined,
  ws: HttpTransportType.WebSockets,
  sse: HttpTransportType.ServerSentEvents,
  lp: HttpTransportType.LongPolling,
};

const connections = new Map();
const streams = new Map();

const tell = (event) => process.stdout.write(`${JSON.stringify(event, bytes)}\n`);
const bytes = (_, value) => {
  if (value instanceof Uint8Array) return { $bytes: Buffer.from(value).toString("base64") };
  return value === undefined ? { $undefined: true } : value;
};
const fault = (error) => (error ? { type: error.name, message: error.message } : null);

function build(command) {
  const builder = new HubConnectionBuilder()
    .withUrl(command.url, {
      transport: TRANSPORTS[command.transport ?? "ws"],
      skipNegotiation: command.skipNegotiation ?? false,
      headers: command.headers ?? {},
      accessTokenFactory: command.token ? () => command.token : undefined,
    })
    .configureLogging({ log: (level, text) => level >= LogLevel.Warning && tell({ event: "log", client: command.client, level, text }) });
  if (command.protocol === "messagepack") builder.withHubProtocol(new MessagePackHubProtocol());
  if (command.reconnect) builder.withAutomaticReconnect(command.reconnect);
  if (command.stateful) builder.withStatefulReconnect();
  const connection = builder.build();
  const client = command.client;
  connection.onclose((error) => tell({ event: "closed", client, error: fault(error) }));
  connection.onreconnecting((error) => tell({ event: "reconnecting", client, error: fault(error) }));
  connection.onreconnected((connectionId) => tell({ event: "reconnected", client, connectionId }));
  for (const method of command.on ?? []) listen(connection, client, method);
  return connection;
}

function listen(connection, client, method) {
  connection.on(method, (...args) => tell({ event: "message", client, method, args }));
}

function stream(connection, command) {
  return new Promise((resolve) => {
    const end = (error) => { tell({ event: "stream_end", id: command.id, error: fault(error) }); resolve(); };
    const subscription = connection.stream(command.method, ...(command.args ?? [])).subscribe({
      next: (value) => tell({ event: "stream_item", id: command.id, value }),
      complete: () => end(null),
      error: end,
    });
    streams.set(command.id, subscription);
  });
}

async function obey(command) {
  const { id, cmd, client } = command;
  try {
    if (cmd === "connect") {
      const connection = build(command);
      connections.set(client, connection);
      await connection.start();
      return tell({ event: "result", id, value: connection.connectionId });
    }
    if (cmd === "cancel") {
      streams.get(command.stream).dispose();
      return tell({ event: "result", id });
    }
    const connection = connections.get(client);
    if (!connection) throw new Error(`there is no client ${client}`);
    switch (cmd) {
      case "on": listen(connection, client, command.method); return tell({ event: "result", id });
      case "invoke": return tell({ event: "result", id, value: await connection.invoke(command.method, ...(command.args ?? [])) });
      case "send": await connection.send(command.method, ...(command.args ?? [])); return tell({ event: "result", id });
      case "stream": return await stream(connection, command);
      case "start": await connection.start(); return tell({ event: "result", id, value: connection.connectionId });
      case "stop": await connection.stop(); return tell({ event: "result", id });
      case "state": return tell({ event: "result", id, value: { state: connection.state, connectionId: connection.connectionId } });
      default: throw new Error(`unknown command ${cmd}`);
    }
  } catch (error) {
    return tell({ event: "error", id, error: fault(error) });
  }
}

createInterface({ input: process.stdin })
  .on("line", (line) => { obey(JSON.parse(line)); })
  .on("close", () => process.exit(0));
tell({ event: "ready" });
