// The driver in Node: commands on stdin, events on stdout, one JSON object a line; driver.mjs tells which.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { begin, obey, read } from "./driver.mjs";

const require = createRequire(import.meta.url);

// The newest version has the packages' own names, older ones have aliases in package.json.
function libraries(version) {
  const name = version === "10.0" ? "@microsoft/signalr" : `signalr-${version}`;
  const msgpack = version === "10.0" ? "@microsoft/signalr-protocol-msgpack" : `${name}-msgpack`;
  return { ...require(msgpack), ...require(name) };
}

begin(libraries, (line) => process.stdout.write(`${line}\n`));
createInterface({ input: process.stdin })
  .on("line", (line) => { obey(read(line)); })
  .on("close", () => process.exit(0));
process.stdout.write('{"event":"ready"}\n');
