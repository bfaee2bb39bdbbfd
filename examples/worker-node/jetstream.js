// What a worker asks of the server: store and know it, read what is stored, make consumers.

import { headers } from "@nats-io/transport-node";
import { decode, JSON_TYPE } from "./codec.js";

export const NS = 1e9;
export const EXPECTED = "Nats-Expected-Last-Subject-Sequence";
const STANDS_ALREADY = [10071, 10164];
const NO_CONSUMER = 10014;
const NO_MESSAGE = 10037;
const CONSUMER_EXISTS = [10105, 10148];
const FULL = [10077, 10047, 10023];

class Refused extends Error {
  constructor({ err_code: code, description }) {
    super(`${description} (${code})`);
    this.code = code;
  }
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

export class JetStream {
  constructor(nc) {
    this.nc = nc;
  }

  /** The server's answer; throws `Refused`, or whatever says that there was none. */
  async ask(subject, body, extra = {}) {
    const head = headers();
    for (const [name, value] of Object.entries(extra)) head.set(name, value);
    const payload = body instanceof Uint8Array ? body : body === undefined ? "" : JSON.stringify(body);
    const answer = (await this.nc.request(subject, payload, { timeout: 2000, headers: head })).json();
    if (answer.error) throw new Refused(answer.error);
    return answer;
  }

  /** The same, again until there is an answer. Only for what may be done twice. */
  async persist(subject, body, extra) {
    for (let wait = 100; ; wait = Math.min(2000, 2 * wait)) {
      try {
        return await this.ask(subject, body, extra);
      } catch (error) {
        if (error instanceof Refused && !FULL.includes(error.code)) throw error;
        await pause(wait); // 2.10: no server, or no room there: the task stays in hand meanwhile
      }
    }
  }

  /** 2.2, 2.3: store it where `EXPECTED` stands last; null when somebody was first, or our own lost answer was. */
  async first(subject, body, extra) {
    try {
      return await this.persist(subject, body, extra);
    } catch (error) {
      if (error instanceof Refused && STANDS_ALREADY.includes(error.code)) return null;
      throw error;
    }
  }

  /** The newest message on a subject, as the stream's leader has it, with its sequence; null when there is none. */
  async last(stream, subject) {
    try {
      const { message } = await this.persist(`$JS.API.STREAM.MSG.GET.${stream}`, { last_by_subj: subject });
      const head = Buffer.from(message.hdrs ?? "", "base64").toString();
      if (/^(KV-Operation|Nats-Marker-Reason):/im.test(head)) return { sequence: message.seq, value: {} }; // it is gone
      const type = /^Content-Type: *([^;\r]+)/im.exec(head)?.[1] ?? JSON_TYPE;
      return { sequence: message.seq, value: decode(Buffer.from(message.data ?? "", "base64"), type) };
    } catch (error) {
      if (error instanceof Refused && error.code === NO_MESSAGE) return null;
      throw error;
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
