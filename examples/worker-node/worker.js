// A worker of a Revo mesh on nothing but the NATS client. What it must do is in docs/conformance.md, by number.

import { connect } from "@nats-io/transport-node";
import { decode, encode } from "./codec.js";
import { EXPECTED, JetStream, NS } from "./jetstream.js";
import { readTask } from "./task.js";

const PRIORITIES = ["critical", "urgent", "high", "normal", "low"];
/** Milliseconds that a task waits here for a slot; then another worker shall have it. */
const HELD = 1000;
/** Seconds that a pull stands for. In an account of its own the server forgets the way back of one that stood for minutes. */
const STANDS = 20;
const POLICY = { ack_wait: 5, max_attempts: 3, time_limit: 30, backoff: 1, backoff_max: 60, max_deaths: 3 };

/** An error with a code that its caller sees; whether a retry may help is said by whoever throws it. */
export class TaskError extends Error {
  constructor(code, message, { retryable = true } = {}) {
    super(message);
    this.code = code;
    this.retryable = retryable;
  }
}

export class Worker {
  /** `handler(message, task)` returns the value, or throws; `task.signal` aborts when it is to stop. */
  constructor({ capability, handler, agent, credentials, slots = 4, policy = {} }) {
    agent = credentials?.user ?? agent; // an agent's grants are under its own name
    Object.assign(this, { capability, handler, agent, credentials, slots, policy: { ...POLICY, ...policy } });
    this.instance = `${agent}-${process.pid.toString(36)}${Date.now().toString(36)}`;
    this.held = [];
    this.pulls = {};
    this.inHand = new Map();
    this.running = 0;
    this.alone = false;
    this.leaving = false;
  }

  async start(url) {
    const { authenticator, role, user, inbox = "_INBOX" } = this.credentials ?? {};
    const who = authenticator ? { authenticator, inboxPrefix: inbox } : {};
    this.nc = await connect({ servers: url, name: this.instance, maxReconnectAttempts: -1, reconnectTimeWait: 250, ...who });
    const restricted = role === "agent" && this.nc.info.auth_required;
    this.streams = new JetStream(this.nc, restricted ? user : "");
    if (restricted) this.policy = { ...this.policy, ...(await this.streams.standingPolicy(this.capability)) };
    else for (const priority of PRIORITIES) await this.streams.makeConsumer(this.capability, priority, this.policy);
    this.inbox = `${inbox}.${this.instance}.${Math.random().toString(36).slice(2)}`;
    this.deliveries = this.hear(`${this.inbox}.*`, (message) => this.arrive(message));
    this.hear("revo.ctl.all.all.*", (message) => this.order(message));
    this.timers = [
      setInterval(() => this.beat(), 1000),
      setInterval(() => this.extend(), (this.policy.ack_wait * 1000) / 4),
    ];
    this.watch();
    this.pull(...PRIORITIES);
  }

  hear(subject, callback) {
    const called = (error, message) => (error ? console.error(`${subject}: ${error.message}`) : callback(message));
    return this.nc.subscribe(subject, { callback: called });
  }

  /** 5.3: the pulls that stood are gone with the server. */
  async watch() {
    for await (const { type } of this.nc.status()) if (type === "reconnect") this.pull(...PRIORITIES);
  }

  /** 5.2: take no more, hand back what has not begun, finish what runs. */
  async drain() {
    this.leaving = true;
    await this.nc.flush();
    const idle = new Promise((done) => (this.onIdle = done));
    this.fill();
    await idle;
    this.deliveries.unsubscribe();
    [...this.timers, ...Object.values(this.pulls)].forEach(clearTimeout);
    this.beat();
    await this.nc.drain();
  }

  // --- taking ---------------------------------------------------------------------------------------------

  /** 1.4: of each priority one task is asked for, or is here and waits; the most urgent one is the next to start. */
  pull(...priorities) {
    for (const priority of priorities) {
      const subject = `$JS.API.CONSUMER.MSG.NEXT.TASKS.${this.capability}-${priority}`;
      this.nc.publish(subject, JSON.stringify({ batch: 1, expires: STANDS * NS }), { reply: `${this.inbox}.${priority}` });
      this.pullIn(STANDS + 5, priority); // its end is told before, if that word is not lost
    }
  }

  pullIn(seconds, priority) {
    clearTimeout(this.pulls[priority]);
    this.pulls[priority] = setTimeout(() => this.leaving || this.pull(priority), seconds * 1000);
  }

  async arrive(message) {
    if (!message.reply) {
      const over = message.headers?.code === 408; // or the server is not ready
      this.pullIn(over ? 0 : 1, message.subject.split(".").at(-1));
      return;
    }
    const task = readTask(message);
    clearTimeout(this.pulls[task.priority]);
    try {
      await this.take(task);
    } catch (error) {
      console.error(`task ${task.taskId}:`, error); // it is not settled: the server delivers it again
      this.pull(task.priority);
      this.leave(task);
    }
  }

  async take(task) {
    const known = this.inHand.get(task.sequence);
    if (known) {
      known.reply = task.reply; // it came again while we have it: it is settled by its newest delivery
      known.deliveries = task.deliveries;
      this.pull(task.priority);
      return;
    }
    this.inHand.set(task.sequence, task);
    await this.lookBack(task);
    this.held.push(task);
    this.held.sort((one, other) => PRIORITIES.indexOf(one.priority) - PRIORITIES.indexOf(other.priority));
    task.timer = setTimeout(() => this.handBack(task).catch(console.error), HELD);
    this.fill();
  }

  /** 2.6, 2.7, 3.7: what earlier deliveries have left behind. The first one of a new id has nothing behind it. */
  async lookBack(task) {
    task.record = { errors: 0, returned: 0, suspect: false, alone: 0 };
    task.revision = 0;
    if (task.deliveries > 1 || task.named) {
      task.standing = (await this.streams.last("RESULTS", `revo.result.${task.name}`))?.value ?? null;
    }
    if (task.deliveries > 1) {
      const found = await this.streams.last("KV_ATTEMPTS", `$KV.ATTEMPTS.${task.name}`);
      if (found) [task.record, task.revision] = [{ ...task.record, ...found.value }, found.sequence];
      task.suspect = task.record.suspect || task.deliveries - 1 > task.record.returned;
    }
    task.attempt = task.record.errors + 1;
  }

  /** Start what may start: after every change. What its worker died with runs alone, so that it takes nobody along. */
  fill() {
    if (this.leaving) for (const task of [...this.held]) this.handBack(task).catch(console.error);
    while (this.held.length && this.running < this.slots && !this.alone) {
      if (this.held[0].suspect && this.running) return;
      const task = this.held.shift();
      clearTimeout(task.timer);
      this.running += 1;
      this.alone = Boolean(task.suspect);
      this.pull(task.priority);
      this.work(task);
    }
    if (!this.inHand.size) this.onIdle?.();
  }

  async work(task) {
    try {
      await this.carryOut(task);
    } catch (error) {
      console.error(`task ${task.taskId}:`, error); // it is not settled: the server delivers it again
    }
    if (task.suspect) this.alone = false;
    this.running -= 1;
    this.leave(task);
  }

  leave(task) {
    this.inHand.delete(task.sequence);
    this.fill();
  }

  /** 3.6: nobody shall take it for the victim of a death. */
  async handBack(task) {
    if (!this.held.includes(task)) return;
    clearTimeout(task.timer);
    this.held.splice(this.held.indexOf(task), 1);
    await this.write(task, { ...task.record, returned: task.deliveries, suspect: Boolean(task.suspect) });
    this.settle(task, "-NAK");
    if (!this.leaving) this.pull(task.priority);
    this.leave(task);
  }

  // --- one task -------------------------------------------------------------------------------------------

  async carryOut(task) {
    if (task.ended) task.standing = (await this.streams.last("RESULTS", `revo.result.${task.name}`))?.value;
    if (task.standing) {
      await this.conclude(task, task.standing);
      return;
    }
    const started = Date.now() / 1000;
    if (task.suspect && task.record.alone < this.policy.max_deaths) {
      await this.write(task, { ...task.record, suspect: true, alone: task.record.alone + 1 });
    }
    const end = await this.run(task);
    const again = end.status === "failed" && (end.error.retryable ?? true) && !task.ended;
    if (again && task.attempt < this.policy.max_attempts) {
      await this.again(task);
      return;
    }
    await this.conclude(task, await this.store(task, this.result(task, end, started)));
  }

  /** How it ends: `{status, value}` or `{status, error}`. */
  async run(task) {
    const failed = (error) => ({ status: "failed", error });
    const final = (code, message) => failed(new TaskError(code, message, { retryable: false }));
    if (task.record.alone >= this.policy.max_deaths) return final("worker_died", "its processes died, again and again");
    if (task.fault) return final("decode", task.fault);
    const left = task.deadline - Date.now() / 1000;
    const expired = { status: "expired", error: new TaskError("deadline_exceeded", "its deadline passed", { retryable: false }) };
    if (left <= 0) return expired;
    const stop = new AbortController();
    task.signal = stop.signal;
    task.stop = () => stop.abort();
    const limit = Math.min(left, this.policy.time_limit);
    const late = left <= this.policy.time_limit ? expired : failed(new TaskError("time_limit", `it took over ${limit} s`));
    let timer;
    const overdue = new Promise((done) => (timer = setTimeout(done, limit * 1000, late)));
    const handled = (async () => ({ status: "succeeded", value: (await this.handler(task.message, task)) ?? null }))();
    const end = await Promise.race([handled.catch(failed), overdue]);
    clearTimeout(timer);
    if (end === late) stop.abort();
    return end;
  }

  /** 3.1, 3.2 */
  async again(task) {
    const { backoff, backoff_max: most } = this.policy;
    const seconds = Math.min(most, backoff * 2 ** (task.attempt - 1)) * (0.5 + Math.random() / 2);
    await this.write(task, { ...task.record, errors: task.attempt, returned: task.deliveries, suspect: false, alone: 0 });
    this.settle(task, `-NAK ${JSON.stringify({ delay: Math.round(seconds * NS) })}`);
  }

  /** The task's record, if nobody has changed it meanwhile; else its next worker finds what they wrote. */
  async write(task, record) {
    const ttl = Math.max(1, Math.floor(task.deadline - Date.now() / 1000)) + 600;
    const extra = { [EXPECTED]: `${task.revision}`, "Nats-TTL": `${ttl}s` };
    const stored = await this.streams.first(`$KV.ATTEMPTS.${task.name}`, record, extra);
    if (stored) Object.assign(task, { revision: stored.seq, record });
  }

  /** 2.4 */
  result(task, { status, value = null, error }, started) {
    const told = error && {
      code: error.code ?? error.name ?? "error",
      message: `${error.message}`.slice(0, 2000),
      retryable: error.retryable ?? true,
    };
    return {
      task_id: task.taskId,
      capability: task.capability,
      client: task.client,
      status,
      value,
      error: told ?? null,
      attempts: task.attempt,
      deliveries: task.deliveries,
      sequence: task.sequence,
      agent: this.agent,
      instance: this.instance,
      submitted_at: task.storedAt,
      started_at: started,
      finished_at: Date.now() / 1000,
      trace_id: "",
    };
  }

  /** 2.1, 2.2, 2.3, 2.5, 2.11, 2.13: the result that stands from now on, ours or the one that was first. */
  async store(task, result) {
    let body = encode(result, task.type);
    if (body.length > this.nc.info.max_payload - 65536) {
      const error = { code: "payload_too_large", message: `a result of ${body.length} bytes`, retryable: false };
      result = { ...result, status: "failed", value: null, error };
      body = encode(result, task.type);
    }
    const ttl = Math.ceil(Math.max(3600, task.deadline - Date.now() / 1000)) + 1;
    const extra = { [EXPECTED]: "0", "Nats-TTL": `${ttl}s`, "Revo-Task-Id": task.taskId, "Content-Type": task.type };
    if (task.headers.traceparent) extra.traceparent = task.headers.traceparent;
    const stored = await this.streams.first(`revo.result.${task.name}`, body, extra);
    return stored ? result : (await this.streams.last("RESULTS", `revo.result.${task.name}`)).value;
  }

  /** 2.7, 2.8, 2.9: what must stand besides the result before the task leaves the queue. */
  async conclude(task, standing) {
    if (standing.sequence !== task.sequence) {
      const note = { task_id: task.taskId, ended_by: standing.sequence };
      await this.streams.first(`revo.audit.double.${task.sequence}`, note, { [EXPECTED]: "0" });
    } else if (standing.status === "failed") {
      const { task_id, capability, client, sequence, error, attempts, deliveries, agent, instance } = standing;
      const letter = { task_id, capability, client, sequence, error, attempts, deliveries, agent, instance };
      Object.assign(letter, { subject: task.subject, reason: error.code });
      Object.assign(letter, { submitted_at: task.storedAt, died_at: standing.finished_at });
      const kept = Object.entries(task.headers).filter(([name]) => !name.toLowerCase().startsWith("nats-"));
      const ours = { "Revo-Task-Id": task.taskId, "Revo-Dead-Letter": JSON.stringify(letter), [EXPECTED]: "0" };
      await this.streams.first(`revo.dead.${task.name}`, task.body, { ...Object.fromEntries(kept), ...ours });
    }
    this.settle(task, standing.status === "succeeded" ? "+ACK" : "+TERM");
  }

  settle(task, word) {
    this.nc.publish(task.reply, word);
  }

  // --- others ---------------------------------------------------------------------------------------------

  /** 1.5: whoever has a handler that blocks the loop needs a thread for this. */
  extend() {
    for (const task of this.inHand.values()) this.settle(task, "+WPI");
  }

  /** 4.3, 5.5 */
  order(message) {
    const verb = message.subject.split(".").at(-1);
    if (verb === "end") this.end(message);
    if (verb === "tasks" && message.reply) message.respond(JSON.stringify(this.said()));
  }

  end(message) {
    try {
      const order = decode(message.data, message.headers?.get("Content-Type"));
      const task = this.inHand.get(order.sequence);
      if (!task) return;
      task.ended = true;
      task.stop?.();
    } catch (error) {
      console.error("an order that cannot be read:", error);
    }
  }

  /** 5.4 */
  beat() {
    this.nc.publish(`revo.beat.${this.agent}.${this.instance}`, JSON.stringify(this.said()));
  }

  said() {
    const tasks = [...this.inHand.values()].map((task) => ({
      task_id: task.taskId,
      capability: task.capability,
      client: task.client,
      priority: task.priority,
      sequence: task.sequence,
      deliveries: task.deliveries,
      attempt: task.attempt ?? 1,
      state: this.held.includes(task) ? "held" : "running",
      since: task.since,
    }));
    const { agent, instance, capability, slots, leaving } = this;
    const at = Date.now() / 1000;
    return { agent, instance, at, concurrency: slots, capabilities: [capability], in_hand: tasks, leaving: leaving && !tasks.length };
  }
}
