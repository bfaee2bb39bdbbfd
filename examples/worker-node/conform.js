// The capability that `revo conformance` checks: it does as it is told (docs/conformance.md).

import { setTimeout as sleep } from "node:timers/promises";
import { readCredentials } from "./credentials.js";
import { TaskError, Worker } from "./worker.js";

let worker;

async function handler(told, task) {
  const tell = (event) => told.tell && worker.nc.publish(told.tell, JSON.stringify({ event }));
  tell("begin");
  try {
    await sleep((told.seconds ?? 0) * 1000, undefined, { signal: task.signal });
  } catch (error) {
    tell("stopped");
    throw error;
  }
  tell("end");
  if (told.do === "fail" || (told.do === "fail-once" && task.attempt === 1)) throw new TaskError("as_told", "as told");
  if (told.do === "fail-for-good") throw new TaskError("as_told", "as told", { retryable: false });
  return told.do === "large" ? "x".repeat(told.size) : told.value;
}

function fail(what, error) {
  console.error(`${what}: ${error.message}`);
  process.exit(1);
}

process.once("SIGTERM", async () => {
  if (worker?.streams) await worker.drain().catch((error) => fail("this worker cannot leave in order", error));
  process.exit(0);
});
try {
  const credentials = readCredentials(process.env.REVO_CREDENTIALS);
  const policy = { ack_wait: 0.5, backoff: 0.1 };
  worker = new Worker({ capability: "node", agent: "node", handler, credentials, policy });
  await worker.start(process.env.REVO_NATS_URL);
} catch (error) {
  fail("this worker cannot join the mesh", error);
}
const why = await worker.nc.closed(); // as of a user that was removed
if (why) fail("this worker is cut off", why);
