// The driver in a page of Chromium: commands on stdin, events on stdout, one JSON object a line; driver.mjs tells which.
//
//   node driver_page.mjs CHROMIUM ORIGIN VERSION
//
// The page is whatever ORIGIN, the server under test, answers at /chat: text, but a page of that server's.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const require = createRequire(import.meta.url);
const [executablePath, origin, version] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  handleSIGTERM: false,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
const page = await browser.newPage();
page.on("pageerror", (error) => console.error(String(error)));
await page.goto(`${origin}/chat`);
// The builds for browsers are scripts that leave their names behind; the protocol of 5.0 wants one of its library, too.
const scripts = [
  "msgpack5/dist/msgpack5.js",
  `signalr-${version}/dist/browser/signalr.js`,
  `signalr-${version}-msgpack/dist/browser/signalr-protocol-msgpack.js`,
];
for (const script of scripts) await page.addScriptTag({ path: require.resolve(script) });
await page.exposeFunction("tellNode", (line) => { process.stdout.write(`${line}\n`); });
const driver = readFileSync(new URL("driver.mjs", import.meta.url), "utf8");
await page.evaluate(async (source) => {
  globalThis.driver = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  driver.begin(() => ({ ...signalR.protocols.msgpack, ...signalR }), (line) => { tellNode(line); });
}, driver);
const end = async () => { await browser.close(); process.exit(0); };
process.on("SIGTERM", end);
createInterface({ input: process.stdin })
  .on("line", (line) => { page.evaluate((text) => { driver.obey(driver.read(text)); }, line).catch(() => {}); })
  .on("close", end);
process.stdout.write('{"event":"ready"}\n');
