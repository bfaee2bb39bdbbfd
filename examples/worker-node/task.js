// A delivery of TASKS as a task: never throws, what makes no sense stands in `fault`.

import { blake2b } from "./blake2b.js";
import { decode, JSON_TYPE, MSGPACK } from "./codec.js";

const TOKEN = /^[A-Za-z0-9_-]{1,64}$/;
const MONTH = 30 * 86400;
const DEFAULT_DEADLINE = 3600;

/** 1.6 to 1.11 */
export function readTask(delivery) {
  const [, , capability, priority, client] = delivery.subject.split(".");
  // ...<stream>.<consumer>.<deliveries>.<sequence>.<sequence of the consumer>.<stored at, in ns>.<pending>[.<random>]
  const ack = delivery.reply.split(".").slice(delivery.reply.split(".").length >= 11 ? 6 : 4);
  const head = readHeaders(delivery);
  const body = Buffer.from(delivery.data);
  const task = {
    subject: delivery.subject,
    capability,
    priority,
    client: TOKEN.test(client) ? client : "unusable",
    reply: delivery.reply,
    headers: head,
    body,
    deliveries: Number(ack[0]),
    sequence: Number(ack[1]),
    storedAt: Number(BigInt(ack[3]) / 1000n) / 1e6,
    since: Date.now() / 1000,
    fault: "",
  };
  const said = head["Revo-Task-Id"] ?? "";
  task.named = TOKEN.test(said) && !("Revo-Fresh" in head);
  task.taskId = TOKEN.test(said) ? said : blake2b(Buffer.concat([Buffer.from(`${ack[1]}.${ack[3]}.`), body]));
  task.name = `${task.client}.${capability}.${task.taskId}`;
  const deadline = Number(head["Revo-Deadline"] ?? task.storedAt + DEFAULT_DEADLINE);
  const sensible = deadline > 0 && deadline <= task.storedAt + MONTH + 60;
  task.deadline = sensible ? deadline : task.storedAt + DEFAULT_DEADLINE;
  const type = (head["Content-Type"] ?? JSON_TYPE).split(";")[0].trim().toLowerCase();
  task.type = type === MSGPACK ? MSGPACK : JSON_TYPE;
  if (task.client !== client) task.fault = "the client in its subject is no token";
  else if (said && !TOKEN.test(said)) task.fault = "its Revo-Task-Id is no token";
  else if (!sensible) task.fault = "its Revo-Deadline is no time within 30 days";
  else if ("Revo-Blob" in head) task.fault = "its body stands in a blob, which this worker does not read";
  else if (type !== task.type) task.fault = `its body is ${type}, and this worker reads JSON and msgpack`;
  else {
    try {
      task.message = decode(body, type);
    } catch (error) {
      task.fault = `its body is no ${type}: ${error.message}`;
    }
  }
  return task;
}

function readHeaders(delivery) {
  const names = delivery.headers?.keys() ?? [];
  return Object.fromEntries(names.map((name) => [name, delivery.headers.get(name)]));
}
