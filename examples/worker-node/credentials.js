// Who the worker is where the server knows users: a file of `revo keys add NAME --role agent --does CAPABILITY`.

import { readFileSync, statSync } from "node:fs";
import { nkeyAuthenticator } from "@nats-io/transport-node";

const WORLD_MAY_READ = 0o004;

/** What is in the file: `user`, `role`, `inbox`, and `authenticator`, which reads it anew at each connect; undefined: no file. */
export function readCredentials(path) {
  if (!path) return undefined;
  const { seed, user, role, account } = read(path);
  let last = seed;
  const current = () => {
    try {
      last = read(path).seed; // `revo keys rotate` has written another
    } catch (error) {
      console.error(error.message);
    }
    return new TextEncoder().encode(last);
  };
  const inbox = account === "own" ? "_INBOX" : `_INBOX_core.${user}`;
  return { user, role, inbox, authenticator: nkeyAuthenticator(current) };
}

function read(path) {
  const refuse = (reason) => new Error(`credentials ${path}: ${reason}`);
  let lines;
  try {
    if (statSync(path).mode & WORLD_MAY_READ) throw refuse("everybody on this machine may read it; chmod 600");
    lines = readFileSync(path, "utf-8").split("\n");
  } catch (error) {
    throw error.code ? refuse(error.code === "ENOENT" ? "there is no such file" : error.code) : error;
  }
  const said = Object.fromEntries(lines.map((line) => /^# (\w+): (\S+)\s*$/.exec(line)?.slice(1) ?? []));
  const seed = lines.find((line) => line.startsWith("SU"))?.trim();
  if (!seed || !said.user || !said.role || !said.account) throw refuse("`revo keys add` did not write it");
  return { ...said, seed };
}
