// Uses the demo's page in Chromium as a person would, and tells what it saw as one JSON object on stdout.
//
//   node demo_page.mjs CHROMIUM URL FOLDER [outage]

import { chromium } from "playwright-core";

const [executablePath, url, folder, outage] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
const seen = { console: [], requests: [] };

async function open(options) {
  const page = await browser.newPage(options);
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && seen.console.push(message.text()));
  page.on("pageerror", (error) => seen.console.push(String(error)));
  page.on("request", (request) => seen.requests.push(request.url()));
  await page.goto(url);
  await page.locator("#pane-a .state.good").waitFor();
  await page.locator("#pane-b .state.good").waitFor();
  await page.locator("#broker-state.good").waitFor();
  return page;
}

const bubbles = (page, pane) => page.locator(`#pane-${pane} .message:not(.failed):not(.pending)`);

async function say(page, from, name, text) {
  await page.locator(`#pane-${from} [name=who]`).fill(name);
  await page.locator(`#pane-${from} [name=text]`).fill(text);
  await page.locator(`#pane-${from} [type=submit]`).click();
}

const read = (page, pane, text) => bubbles(page, pane).filter({ hasText: text }).waitFor();
const lines = (page, pane) => bubbles(page, pane).locator(".bubble").allTextContents();

try {
  const page = await open({ viewport: { width: 1280, height: 800 } });
  await page.screenshot({ path: `${folder}/empty.png` });

  await say(page, "a", "Ada", "Hello from the left!");
  await read(page, "b", "Hello from the left!");
  await say(page, "b", "Grace", "Read you on the other process.");
  await read(page, "a", "Read you on the other process.");
  await page.locator("#pane-a [name=text]").pressSequentially("I am wri");
  await page.locator("#pane-b .typing").filter({ hasText: "Ada is typing on Node A" }).waitFor();
  seen.a = await lines(page, "a");
  seen.b = await lines(page, "b");
  seen.ownOnA = await page.locator("#pane-a .message.own .bubble").allTextContents();
  seen.crossed = await page.locator("#crossed").textContent();
  seen.latency = await page.locator("#latency").textContent();
  seen.facts = await page.locator(".facts").allTextContents();
  await page.screenshot({ path: `${folder}/light.png` });

  const dark = await open({ viewport: { width: 1280, height: 800 }, colorScheme: "dark" });
  await say(dark, "b", "Linus", "A second window is the same room.");
  await read(page, "a", "A second window is the same room.");
  await dark.screenshot({ path: `${folder}/dark.png` });

  const phone = await open({ viewport: { width: 390, height: 844 } });
  seen.phoneOverflow = await phone.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  await phone.screenshot({ path: `${folder}/phone.png`, fullPage: true });
  await dark.close();
  await phone.close();

  if (outage) {
    await page.locator("#outage").click();
    await page.locator("#broker-state.bad").waitFor();
    await say(page, "a", "Ada", "Does anybody hear me?");
    await page.locator("#pane-a .pending, #pane-a .failed").first().waitFor();
    seen.duringOutage = await page.locator(".pane > header .state").allTextContents();
    await page.screenshot({ path: `${folder}/outage.png` });
    await page.locator("#events li.good").filter({ hasText: "Redis is back" }).waitFor({ timeout: 20000 });
    await say(page, "a", "Ada", "Whole again");
    await read(page, "b", "Whole again");
    seen.afterOutage = await lines(page, "b");
    seen.events = await page.locator("#events li").allTextContents();
    await page.screenshot({ path: `${folder}/healed.png` });
  }
} catch (error) {
  seen.failure = String(error);
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
