// One page, two clients: each pane is connected to its own node, and what crosses between them is timed.

const NAMES = ["Ada", "Grace", "Alan", "Edsger", "Barbara", "Dennis", "Radia", "Linus", "Frances", "Tim"];
const PROTOCOLS = ["JSON", "MessagePack"];
const LETTERS = ["a", "b"];
const TYPING_MS = 2500;
const PATIENCE_MS = 300;
const MISSED_MS = 3000;
const KEPT_MESSAGES = 200;
const KEPT_EVENTS = 6;

const byId = (id) => document.getElementById(id);
const stage = byId("stage");
const wire = byId("wire");
const panes = [];
const sent = new Map(); // message id -> when it was typed, in which pane, and in how many it was read
const latencies = [];
let crossed = 0;
let outage = false;

const clock = (ms) => (ms < 10 ? ms.toFixed(1) : ms < 1000 ? Math.round(ms).toString() : `${(ms / 1000).toFixed(1)}k`);
const newId = () => `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const median = (values) => [...values].sort((x, y) => x - y)[Math.floor(values.length / 2)];

// SignalR prefixes what the server said; the person at the keyboard wants the sentence itself.
const plain = (error) => String(error?.message ?? error).replace(/^.*?HubException: /, "");

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function tell(text, kind = "") {
  const events = byId("events");
  events.prepend(element("li", kind, text));
  while (events.children.length > KEPT_EVENTS) events.lastElementChild.remove();
}

function brokerIs(state, kind) {
  const badge = byId("broker-state");
  badge.textContent = state;
  badge.className = `state ${kind}`;
  wire.classList.toggle("away", kind === "bad");
}

class Pane {
  constructor(index, node) {
    this.index = index;
    this.node = node;
    this.letter = LETTERS[index];
    this.url = `${location.protocol}//${location.hostname}:${node.port}/hubs/chat`;
    const part = byId("pane").content.cloneNode(true);
    this.root = part.querySelector(".pane");
    this.root.classList.add(`is-${this.letter}`);
    this.root.id = `pane-${this.letter}`;
    this.title = part.querySelector("h2");
    this.title.textContent = node.name;
    this.title.id = `title-${this.letter}`;
    this.root.setAttribute("aria-labelledby", this.title.id);
    this.badge = part.querySelector(".state");
    this.facts = part.querySelector(".facts");
    this.log = part.querySelector(".log");
    this.log.setAttribute("aria-label", `Messages on ${node.name}`);
    this.typing = part.querySelector(".typing");
    this.form = part.querySelector("form");
    this.button = this.form.querySelector("button");
    this.who = this.form.elements.who;
    this.text = this.form.elements.text;
    this.who.value = NAMES[(index * 5 + Math.floor(Math.random() * 5)) % NAMES.length];
    this.text.placeholder = "Say something…";
    this.log.append(byId("empty").content.cloneNode(true));
    this.log.querySelector("button").addEventListener("click", () => this.send(`Hello from ${node.name}!`));
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = this.text.value.trim();
      if (!text || this.button.disabled) return;
      this.text.value = "";
      this.send(text);
    });
    this.text.addEventListener("input", () => this.sayTyping());
    this.describe();
    stage.append(part);
  }

  describe(identity) {
    const process = identity ? ` · process ${identity.pid}` : "";
    this.facts.textContent = `port ${this.node.port}${process} · speaks ${PROTOCOLS[this.index]}`;
  }

  state(text, kind = "") {
    this.badge.textContent = text;
    this.badge.className = `state ${kind}`;
    this.button.disabled = kind !== "good";
    const hello = this.log.querySelector(".empty button");
    if (hello) hello.disabled = kind !== "good";
  }

  async connect() {
    const builder = new signalR.HubConnectionBuilder()
      .withUrl(this.url)
      .configureLogging(signalR.LogLevel.None)
      .withAutomaticReconnect({ nextRetryDelayInMilliseconds: (past) => Math.min(250 * 2 ** past.previousRetryCount, 3000) });
    if (PROTOCOLS[this.index] === "MessagePack") builder.withHubProtocol(new signalR.protocols.msgpack.MessagePackHubProtocol());
    this.hub = builder.build();
    this.hub.on("ReceiveMessage", (message) => this.receive(message));
    this.hub.on("Typing", (user, node) => this.showTyping(user, node));
    this.hub.on("Probe", (id) => this.probed?.(id));
    this.hub.onreconnecting(() => this.state("reconnecting"));
    this.hub.onreconnected(() => this.greet());
    this.hub.onclose(() => { this.state("disconnected", "bad"); setTimeout(() => this.start(), 1000); });
    await this.start();
  }

  async start() {
    for (;;) {
      try {
        await this.hub.start();
        return await this.greet();
      } catch {
        this.state("waiting for the node");
        await pause(1000);
      }
    }
  }

  async greet() {
    const identity = await this.hub.invoke("WhoAmI");
    this.describe(identity);
    this.state("connected", "good");
    tell(`${identity.node} connected`, "good");
  }

  async send(text) {
    const id = newId();
    const user = this.who.value.trim() || "Somebody";
    const origin = { at: performance.now(), pane: this, read: 0 };
    this.saidTyping = undefined;
    sent.set(id, origin);
    const patience = setTimeout(() => { origin.pending = this.showPending(user, text); }, PATIENCE_MS);
    try {
      await this.hub.invoke("SendMessage", id, user, text);
    } catch (error) {
      sent.delete(id);
      this.showFailure(user, text, plain(error));
      tell(`${this.node.name}: not sent`, "bad");
    } finally {
      clearTimeout(patience);
      origin.pending?.remove();
    }
  }

  receive(message) {
    const origin = sent.get(message.id);
    const own = origin?.pane === this;
    const took = origin && !own ? performance.now() - origin.at : undefined;
    if (origin && (origin.read += 1) === panes.length) sent.delete(message.id);
    else if (own) setTimeout(() => sent.delete(message.id) && noteMiss(this), MISSED_MS);
    this.typing.textContent = "";
    this.show(message, own, took);
    if (took !== undefined) arrived(origin.pane, this, took);
  }

  show(message, own, took) {
    const item = element("li", `message from-${this.letterOf(message.node)}${own ? " own" : ""}`);
    const meta = element("p", "meta");
    meta.append(element("strong", "", message.user), element("span", "", `via ${message.node}`));
    if (took !== undefined) meta.append(element("span", "took", `${clock(took)} ms`));
    item.append(meta, element("p", "bubble", message.text));
    this.append(item);
  }

  showPending(user, text) {
    const item = element("li", "message own pending");
    const meta = element("p", "meta");
    meta.append(element("strong", "", user), element("span", "", "waits for Redis…"));
    item.append(meta, element("p", "bubble", text));
    this.append(item);
    return item;
  }

  showFailure(user, text, why) {
    const item = element("li", "message own failed");
    const meta = element("p", "meta");
    meta.append(element("strong", "", user), element("span", "", "not sent"));
    const bubble = element("div", "bubble", text);
    const again = element("button", "", "Try again");
    again.type = "button";
    again.addEventListener("click", () => { item.remove(); this.send(text); });
    bubble.append(element("span", "why", why));
    item.append(meta, bubble, again);
    this.append(item);
  }

  append(item) {
    this.log.querySelector(".empty")?.remove();
    this.log.append(item);
    while (this.log.children.length > KEPT_MESSAGES) this.log.firstElementChild.remove();
    this.log.scrollTop = this.log.scrollHeight;
  }

  letterOf(name) {
    return panes.find((pane) => pane.node.name === name)?.letter ?? "a";
  }

  sayTyping() {
    const now = performance.now();
    if (this.button.disabled || outage || now - (this.saidTyping ?? -TYPING_MS) < TYPING_MS / 2) return;
    this.saidTyping = now;
    this.hub.send("Typing", this.who.value.trim() || "Somebody").catch(() => {});
  }

  showTyping(user, node) {
    this.typing.textContent = `${user} is typing on ${node}…`;
    clearTimeout(this.typingTimer);
    this.typingTimer = setTimeout(() => { this.typing.textContent = ""; }, TYPING_MS);
  }
}

// Redis keeps nothing for a node that is still reconnecting; what was published a moment earlier is lost to it.
function noteMiss(from) {
  tell(`${panes[1 - from.index].node.name} was not back yet and missed a message`, "bad");
}

function arrived(from, to, took) {
  crossed += 1;
  latencies.push(took);
  if (latencies.length > 50) latencies.shift();
  byId("latency").replaceChildren(clock(took), element("small", "", " ms"));
  byId("latency-caption").textContent = `typed on ${from.node.name}, read on ${to.node.name.replace(" ", "\u00a0")}`;
  byId("crossed").textContent = crossed;
  byId("median").textContent = `${clock(median(latencies))} ms`;
  wire.classList.remove("to-left", "to-right");
  void wire.offsetWidth; // restarts the animation
  wire.classList.add(from.index === 0 ? "to-right" : "to-left");
  if (!outage) brokerIs("carrying", "good");
}

// How long until a message typed on one node is read on the other again.
async function healed() {
  const [first, second] = panes;
  for (;;) {
    const id = newId();
    const read = new Promise((resolve) => { second.probed = (seen) => seen === id && resolve(true); });
    const crossing = first.hub.invoke("Probe", id).then(() => read).catch(() => false);
    if (await Promise.race([crossing, pause(400).then(() => false)])) return;
    await pause(50);
  }
}

async function stopRedis(button) {
  outage = true;
  button.disabled = true;
  try {
    const answer = await fetch("outage", { method: "POST" });
    if (!answer.ok) throw new Error(`the node answered ${answer.status}`);
    const { seconds } = await answer.json();
    brokerIs("stopped", "bad");
    tell("Redis stopped: clients stay connected, sends wait", "bad");
    for (let left = seconds; left > 0; left -= 1) {
      button.textContent = `Back in ${left} s`;
      await pause(1000);
    }
    button.textContent = "Healing…";
    const back = performance.now();
    await healed();
    tell(`Redis is back, messages cross again ${clock(performance.now() - back)} ms later`, "good");
    brokerIs("carrying", "good");
  } catch (error) {
    tell(`Redis was not stopped: ${plain(error)}`, "bad");
  } finally {
    outage = false;
    button.disabled = false;
    button.textContent = button.dataset.text;
  }
}

async function begin() {
  const settings = await (await fetch("settings.json")).json();
  byId("channel").textContent = settings.channel;
  byId("broker").textContent = settings.broker;
  settings.nodes.forEach((node, index) => panes.push(new Pane(index, node)));
  const button = byId("outage");
  button.textContent = `Stop Redis for ${settings.outageSeconds} s`;
  button.dataset.text = button.textContent;
  button.hidden = !settings.embedded;
  button.addEventListener("click", () => stopRedis(button));
  await Promise.all(panes.map((pane) => pane.connect()));
  await healed();
  brokerIs("carrying", "good");
  panes[0].text.focus({ preventScroll: true });
}

begin().catch((error) => tell(`The page could not start: ${plain(error)}`, "bad"));
