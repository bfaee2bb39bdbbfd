// What a worker asks of the server: store and know it, read what is stored, make consumers.

import { headers, NoRespondersError, PermissionViolationError, TimeoutError } from "@nats-io/transport-node";
import { decode, JSON_TYPE } from "./codec.js";

export const NS = 1e9;
export const EXPECTED = "Nats-Expected-Last-Subject-Sequence";
const STANDS_ALREADY = [10071, 10164];
const NO_CONSUMER = 10014;
const NO_MESSAGE = 10037;
const CONSUMER_EXISTS = [10105, 10148];
const FULL = [10077, 10047, 10023];
const STEWARD_TRIES = 20;

class Refused extends Error {
  constructor({ err_code: code, description }) {
    super(`${description} (${code})`);
    this.code = code;
  }
}

const of = (error, kinds) => kinds.some((kind) => error instanceof kind || error.cause instanceof kind);
const mayNot = (error) => of(error, [PermissionViolationError]);
const silent = (error) => of(error, [NoRespondersError, TimeoutError]) || (error.isNoResponders?.() ?? false);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

export class JetStream {
  /** `user`: whose grants are of single subjects, as an agent's are; empty: who may ask for whole streams. */
  constructor(nc, user = "") {
    this.nc = nc;
    this.user = user;
  }

  request(subject, body, extra = {}) {
    const head = headers();
    for (const [name, value] of Object.entries(extra)) head.set(name, value);
    const payload = body instanceof Uint8Array ? body : body === undefined ? "" : JSON.stringify(body);
    return this.nc.request(subject, payload, { timeout: 2000, headers: head });
  }

  /** The server's answer; throws `Refused`, or whatever says that there was none. */
  async ask(subject, body, extra) {
    const answer = (await this.request(subject, body, extra)).json();
    if (answer.error) throw new Refused(answer.error);
    return answer;
  }

  /** The same of any question, again until there is an answer. Only for what may be done twice. */
  async persist(question) {
    for (let wait = 100; ; wait = Math.min(2000, 2 * wait)) {
      try {
        return await question();
      } catch (error) {
        if (error instanceof Refused && !FULL.includes(error.code)) throw error;
        if (mayNot(error)) throw error;
        await pause(wait); // 2.10: no server, or no room there: the task stays in hand meanwhile
      }
    }
  }

  /** 2.2, 2.3: store it where `EXPECTED` stands last; null when somebody was first, or our own lost answer was. */
  async first(subject, body, extra) {
    try {
      return await this.persist(() => this.ask(subject, body, extra));
    } catch (error) {
      if (error instanceof Refused && STANDS_ALREADY.includes(error.code)) return null;
      throw error;
    }
  }

  /** The newest message on a subject, as the stream's leader has it, with its sequence; null when there is none. */
  async last(stream, subject) {
    if (this.user) return this.lastOf(stream, subject);
    try {
      const question = { last_by_subj: subject };
      const { message } = await this.persist(() => this.ask(`$JS.API.STREAM.MSG.GET.${stream}`, question));
      const head = Buffer.from(message.hdrs ?? "", "base64").toString();
      if (/^(KV-Operation|Nats-Marker-Reason):/im.test(head)) return { sequence: message.seq, value: {} }; // it is gone
      const type = /^Content-Type: *([^;\r]+)/im.exec(head)?.[1] ?? JSON_TYPE;
      return { sequence: message.seq, value: decode(Buffer.from(message.data ?? "", "base64"), type) };
    } catch (error) {
      if (error instanceof Refused && error.code === NO_MESSAGE) return null;
      throw error;
    }
  }

  /** The same for who may read that subject and not the stream, from whichever copy answers. */
  async lastOf(stream, subject) {
    const { headers: head, data } = await this.persist(() => this.request(`$JS.API.DIRECT.GET.${stream}.${subject}`));
    if (head.code === 404) return null;
    if (head.code) throw new Error(`${stream} is not read: ${head.code} ${head.description}`);
    const gone = head.has("KV-Operation") || head.has("Nats-Marker-Reason");
    const type = head.get("Content-Type").split(";")[0] || JSON_TYPE;
    return { sequence: Number(head.get("Nats-Sequence")), value: gone ? {} : decode(data, type) };
  }

  /** How the capability is run, by the consumers that stand: who is granted no stream makes none, and asks a steward. */
  async standingPolicy(capability) {
    for (let tries = 1; ; tries += 1) {
      try {
        const answer = await this.request(`revo.rpc.revo-steward.policy.${this.user}`, { name: capability });
        const failed = answer.headers?.has("Nats-Service-Error-Code");
        const { policy, code, message } = answer.json();
        if (!failed) return policy;
        if (code !== "not_found") throw new Error(`a steward says of ${capability}: ${message}`);
        throw new Error(`${capability} has no consumers; an operator makes them with \`revo topology apply\``);
      } catch (error) {
        if (!silent(error) || tries === STEWARD_TRIES) throw error;
        await pause(500);
      }
    }
  }

  /** 1.1, 1.2, 1.3 */
  async makeConsumer(capability, priority, policy) {
    const name = `${capability}-${priority}`;
    const config = {
      durable_name: name,
      filter_subject: `revo.task.${capability}.${priority}.*`,
      ack_policy: "explicit",
      ack_wait: policy.ack_wait * NS,
      max_deliver: -1,
      max_ack_pending: -1,
      metadata: { "revo.policy": JSON.stringify(policy) },
    };
    try {
      await this.ask(`$JS.API.CONSUMER.INFO.TASKS.${name}`);
      return;
    } catch (error) {
      if (!(error instanceof Refused) || error.code !== NO_CONSUMER) throw error;
    }
    const subject = `$JS.API.CONSUMER.CREATE.TASKS.${name}.${config.filter_subject}`;
    await this.ask(subject, { stream_name: "TASKS", config, action: "create" }).catch((error) => {
      if (!CONSUMER_EXISTS.includes(error.code)) throw error; // another replica was quicker
    });
  }
}
