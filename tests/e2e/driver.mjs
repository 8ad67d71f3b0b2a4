// Microsoft's JavaScript client, in any of its versions, driven by JSON objects, telling all it sees as JSON objects.
//
//   {"id":1,"cmd":"connect","client":"c1","url":URL,"protocol":"json","token":"user:ann","reconnect":[0,100]}
//   {"id":2,"cmd":"on","client":"c1","method":"ReceiveMessage"}       then {"event":"message","client","method","args"}
//   {"id":3,"cmd":"invoke","client":"c1","method":"Add","args":[1,2]}  then {"event":"result","id":3,"value":3} or "error"
//   {"id":4,"cmd":"answer","client":"c1","method":"Ask","value":1}     the client's answer to a client result, or
//                                    "error":TEXT, or "wait":true;    then {"event":"asked","client","method","args"}
//   {"id":5,"cmd":"upload","client":"c1","method":"Upload","items":[1,2]}  the stream is the last argument; "fails":TEXT
//                                    ends it with an error, "stream":true for a method that streams back
//   {"id":6,"cmd":"raw","client":"c1","text":TEXT}                     text for the server, past the hub protocol
//   {"id":7,"cmd":"overhear","client":"c1"}                            from now on {"event":"heard","client","text"} too
//   send, stream (then stream_item and stream_end), cancel, stop, state, version
//
// Commands are started in the order of their lines and do not wait for each other. `connect` takes a "version", such as
// "6.0". Bytes are {"$bytes":BASE64}. Runs in Node (driver_node.mjs) and in a page (driver_page.mjs), which call `begin`.

const TRANSPORTS = { any: undefined, ws: 1, sse: 2, lp: 4 };
const WARNING = 3;

const connections = new Map();
const streams = new Map();
let libraries;
let write;

// `found` gives a version's two modules; `out` takes a line.
export function begin(found, out) {
  libraries = found;
  write = out;
}

const tell = (event) => write(JSON.stringify(event, bytes));
function bytes(key, value) {
  const plain = this[key]; // Node's Buffer would have turned itself into a list of numbers
  if (plain instanceof Uint8Array) return { $bytes: btoa(String.fromCharCode(...plain)) };
  return value === undefined ? { $undefined: true } : value;
}
export const read = (line) =>
  JSON.parse(line, (_, value) =>
    typeof value?.$bytes === "string" ? Uint8Array.from(atob(value.$bytes), (character) => character.charCodeAt(0)) : value,
  );
const fault = (error) => (error ? { type: error.name, message: error.message } : null);

function build(command) {
  const { HubConnectionBuilder, MessagePackHubProtocol } = libraries(command.version ?? "10.0");
  const builder = new HubConnectionBuilder()
    .withUrl(command.url, {
      transport: TRANSPORTS[command.transport ?? "ws"],
      skipNegotiation: command.skipNegotiation ?? false,
      headers: command.headers ?? {},
      accessTokenFactory: command.token ? () => command.token : undefined,
    })
    .configureLogging({ log: (level, text) => level >= WARNING && tell({ event: "log", client: command.client, level, text }) });
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

function answer(connection, command) {
  const { client, method } = command;
  connection.off(method);
  connection.on(method, (...args) => {
    tell({ event: "asked", client, method, args });
    if (command.error) throw new Error(command.error);
    if (command.wait) return new Promise(() => {});
    return command.value;
  });
}

function overhear(transport, client) {
  const { onreceive } = transport;
  transport.onreceive = (text) => { tell({ event: "heard", client, text }); onreceive(text); };
}

async function upload(connection, command) {
  const { Subject } = libraries(command.version ?? "10.0");
  const subject = new Subject();
  const all = [...(command.args ?? []), subject];
  const done = command.stream ? stream(connection, { ...command, args: all }) : connection.invoke(command.method, ...all);
  for (const item of command.items) subject.next(item);
  if (command.fails) subject.error(new Error(command.fails));
  else subject.complete();
  const value = await done;
  if (!command.stream) tell({ event: "result", id: command.id, value });
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

export async function obey(command) {
  const { id, cmd, client } = command;
  try {
    if (cmd === "connect") {
      const connection = build(command);
      connections.set(client, connection);
      await connection.start();
      return tell({ event: "result", id, value: connection.connectionId });
    }
    if (cmd === "version") return tell({ event: "result", id, value: libraries(command.version).VERSION });
    if (cmd === "cancel") {
      streams.get(command.stream).dispose();
      return tell({ event: "result", id });
    }
    const connection = connections.get(client);
    if (!connection) throw new Error(`there is no client ${client}`);
    switch (cmd) {
      case "on": listen(connection, client, command.method); return tell({ event: "result", id });
      case "answer": answer(connection, command); return tell({ event: "result", id });
      case "upload": return await upload(connection, command);
      case "raw": await connection.connection.send(command.text); return tell({ event: "result", id });
      case "overhear": overhear(connection.connection.transport, client); return tell({ event: "result", id });
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
