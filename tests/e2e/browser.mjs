// Pages in Chromium, driven by one JSON object a line on stdin, telling what they do on stdout.
//
//   node browser.mjs CHROMIUM
//   {"id":1,"cmd":"open","page":"p1","url":URL}                  a page with cookies of its own
//   {"id":2,"cmd":"run","page":"p1","code":"return a + 1","args":{"a":1}}   the body of an async function, in the page
//   {"id":3,"cmd":"offline","page":"p1","value":true}            as when the cable is pulled
//   {"id":4,"cmd":"close","page":"p1"}
//
// Answers are {"event":"result","id","value"} or {"event":"error","id","error"}; besides {"event":"request"},
// {"event":"socket"} and {"event":"console"} come with the page they are of.

import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const browser = await chromium.launch({
  executablePath: process.argv[2],
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-proxy-server"],
});
const pages = new Map();
const tell = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);

async function open(name, url) {
  const context = await browser.newContext();
  const page = await context.newPage();
  pages.set(name, page);
  page.on("console", (message) => tell({ event: "console", page: name, level: message.type(), text: message.text() }));
  page.on("pageerror", (error) => tell({ event: "console", page: name, level: "error", text: String(error) }));
  page.on("websocket", (socket) => tell({ event: "socket", page: name, url: socket.url() }));
  page.on("request", async (request) => {
    const headers = await request.allHeaders().catch(() => request.headers());
    tell({ event: "request", page: name, method: request.method(), url: request.url(), headers });
  });
  await page.goto(url);
}

async function obey({ cmd, page: name, url, code, args, value }) {
  if (cmd === "open") return open(name, url);
  const page = pages.get(name);
  if (cmd === "run") {
    return page.evaluate(([body, given]) => {
      const run = new (async () => {}).constructor(...Object.keys(given), body);
      return run(...Object.values(given));
    }, [code, args]);
  }
  if (cmd === "offline") return page.context().setOffline(value);
  if (cmd === "close") return page.context().close();
  throw new Error(`unknown command ${cmd}`);
}

createInterface({ input: process.stdin })
  .on("line", async (line) => {
    const command = JSON.parse(line);
    try {
      tell({ event: "result", id: command.id, value: (await obey(command)) ?? null });
    } catch (error) {
      tell({ event: "error", id: command.id, error: String(error.message ?? error) });
    }
  })
  .on("close", async () => {
    await browser.close();
    process.exit(0);
  });
tell({ event: "ready" });
