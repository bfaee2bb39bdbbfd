// JSON and msgpack, as the content type says. Python's `Mesh.submit`, stewards and other workers write msgpack.

export const JSON_TYPE = "application/json";
export const MSGPACK = "application/msgpack";

export function encode(value, type) {
  if (type !== MSGPACK) return Buffer.from(JSON.stringify(value));
  const parts = [];
  pack(value, parts);
  return Buffer.concat(parts);
}

export function decode(bytes, type) {
  if (type !== MSGPACK) return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  const reader = { bytes: Buffer.from(bytes), at: 0 };
  const value = unpack(reader);
  if (reader.at !== reader.bytes.length) throw new Error(`${reader.bytes.length - reader.at} bytes too many`);
  return value;
}

/** A marker and a big-endian number of so many bytes. */
function sized(marker, size, value) {
  const buffer = Buffer.alloc(1 + size);
  buffer[0] = marker;
  if (size === 8) buffer.writeBigInt64BE(BigInt(value), 1);
  else if (value < 0) buffer.writeIntBE(value, 1, size);
  else buffer.writeUIntBE(value, 1, size);
  return buffer;
}

function head(length, fixed, room, wide) {
  if (length < room) return Buffer.from([fixed | length]);
  return length < 0x10000 ? sized(wide, 2, length) : sized(wide + 1, 4, length);
}

function packNumber(value, parts) {
  if (!Number.isSafeInteger(value)) {
    const buffer = Buffer.alloc(9);
    buffer[0] = 0xcb;
    buffer.writeDoubleBE(value, 1);
    parts.push(buffer);
  } else if (value >= -32 && value < 128) parts.push(Buffer.from([value & 0xff]));
  else parts.push(value >= 0 && value < 2 ** 32 ? sized(0xce, 4, value) : sized(0xd3, 8, value));
}

function pack(value, parts) {
  if (value === null || value === undefined) parts.push(Buffer.from([0xc0]));
  else if (typeof value === "boolean") parts.push(Buffer.from([value ? 0xc3 : 0xc2]));
  else if (typeof value === "number") packNumber(value, parts);
  else if (typeof value === "string") {
    const text = Buffer.from(value);
    parts.push(head(text.length, 0xa0, 32, 0xda), text);
  } else if (value instanceof Uint8Array) parts.push(sized(0xc6, 4, value.length), value);
  else if (Array.isArray(value)) {
    parts.push(head(value.length, 0x90, 16, 0xdc));
    for (const item of value) pack(item, parts);
  } else {
    const entries = Object.entries(value);
    parts.push(head(entries.length, 0x80, 16, 0xde));
    for (const [key, item] of entries) {
      pack(key, parts);
      pack(item, parts);
    }
  }
}

function take(reader, size) {
  const start = reader.at;
  reader.at += size;
  if (reader.at > reader.bytes.length) throw new Error("it ends too soon");
  return reader.bytes.subarray(start, reader.at);
}

const unsigned = (reader, size) =>
  size === 8 ? Number(take(reader, 8).readBigUInt64BE()) : take(reader, size).readUIntBE(0, size);
const signed = (reader, size) => (size === 8 ? Number(take(reader, 8).readBigInt64BE()) : take(reader, size).readIntBE(0, size));
const text = (reader, size) => new TextDecoder("utf-8", { fatal: true }).decode(take(reader, size));
const array = (reader, size) => Array.from({ length: size }, () => unpack(reader));
const map = (reader, size) => Object.fromEntries(Array.from({ length: size }, () => [unpack(reader), unpack(reader)]));

const KINDS = {
  0xc0: () => null,
  0xc2: () => false,
  0xc3: () => true,
  0xca: (reader) => take(reader, 4).readFloatBE(),
  0xcb: (reader) => take(reader, 8).readDoubleBE(),
};
[1, 2, 4].forEach((size, i) => {
  KINDS[0xc4 + i] = (reader) => Buffer.from(take(reader, unsigned(reader, size)));
  KINDS[0xd9 + i] = (reader) => text(reader, unsigned(reader, size));
});
[1, 2, 4, 8].forEach((size, i) => {
  KINDS[0xcc + i] = (reader) => unsigned(reader, size);
  KINDS[0xd0 + i] = (reader) => signed(reader, size);
});
[2, 4].forEach((size, i) => {
  KINDS[0xdc + i] = (reader) => array(reader, unsigned(reader, size));
  KINDS[0xde + i] = (reader) => map(reader, unsigned(reader, size));
});

function unpack(reader) {
  const [kind] = take(reader, 1);
  if (kind < 0x80) return kind;
  if (kind < 0x90) return map(reader, kind & 0x0f);
  if (kind < 0xa0) return array(reader, kind & 0x0f);
  if (kind < 0xc0) return text(reader, kind & 0x1f);
  if (kind >= 0xe0) return kind - 0x100;
  if (!(kind in KINDS)) throw new Error(`nothing that is known begins with ${kind}`);
  return KINDS[kind](reader);
}
