// BLAKE2b (RFC 7693) without a key: Node's own has no digests of 128 bits, and a task's id is one.

const IV = [
  0x6a09e667f3bcc908n, 0xbb67ae8584caa73bn, 0x3c6ef372fe94f82bn, 0xa54ff53a5f1d36f1n,
  0x510e527fade682d1n, 0x9b05688c2b3e6c1fn, 0x1f83d9abfb41bd6bn, 0x5be0cd19137e2179n,
];
const SIGMA = [
  [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
  [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
  [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
  [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
  [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
  [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
  [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
  [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
  [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
  [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
];
const COLUMNS = [
  [0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15],
  [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14],
];
const u64 = (value) => BigInt.asUintN(64, value);
const rotate = (value, by) => u64((value >> by) | (value << (64n - by)));

function compress(state, block, counted, last) {
  const v = [...state, ...IV];
  v[12] ^= BigInt(counted);
  if (last) v[14] = u64(~v[14]);
  const view = new DataView(block.buffer, block.byteOffset, 128);
  const words = Array.from({ length: 16 }, (_, i) => view.getBigUint64(8 * i, true));
  for (let round = 0; round < 12; round += 1) {
    const order = SIGMA[round % 10];
    COLUMNS.forEach(([a, b, c, d], i) => {
      v[a] = u64(v[a] + v[b] + words[order[2 * i]]);
      v[d] = rotate(v[d] ^ v[a], 32n);
      v[c] = u64(v[c] + v[d]);
      v[b] = rotate(v[b] ^ v[c], 24n);
      v[a] = u64(v[a] + v[b] + words[order[2 * i + 1]]);
      v[d] = rotate(v[d] ^ v[a], 16n);
      v[c] = u64(v[c] + v[d]);
      v[b] = rotate(v[b] ^ v[c], 63n);
    });
  }
  for (let i = 0; i < 8; i += 1) state[i] ^= v[i] ^ v[i + 8];
}

/** The digest of `data`, so many bytes long, in hex. */
export function blake2b(data, size = 16) {
  const state = [...IV];
  state[0] ^= BigInt(0x01010000 ^ size);
  const blocks = Math.max(1, Math.ceil(data.length / 128));
  for (let i = 0; i < blocks; i += 1) {
    const block = new Uint8Array(128);
    block.set(data.subarray(128 * i, 128 * (i + 1)));
    const last = i === blocks - 1;
    compress(state, block, last ? data.length : 128 * (i + 1), last);
  }
  const bytes = Buffer.alloc(64);
  state.forEach((word, i) => bytes.writeBigUInt64LE(word, 8 * i));
  return bytes.subarray(0, size).toString("hex");
}
