package dev.tacit.edge.secagg;

import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.crypto.KeyedStream;
import java.util.List;

/**
 * Masks: words that are a function of a 32-byte key, used once.
 *
 * <p>The keystream is cut into chunks of 128 KiB; chunk i is AES-256-CTR from the counter block
 * {@code i || 2}, i as 12 bytes and 2 as 4, big-endian. Word j is read, little-endian, from lane
 * j of 2 bytes (16 bits) or 4 (20 and 32); a word of 20 bits is the low bits of its lane.
 */
public final class Masks {
  private static final int CHUNK = 128 * 1024;

  private Masks() {}

  /** Adds the masks of some keys and subtracts those of others, in place; then reduced. */
  public static void accumulate(
      int[] total, Words words, List<byte[]> added, List<byte[]> subtracted) {
    byte[] zeros = new byte[CHUNK];
    byte[] stream = new byte[CHUNK];
    for (byte[] key : added) {
      apply(total, words, key, 1, zeros, stream);
    }
    for (byte[] key : subtracted) {
      apply(total, words, key, -1, zeros, stream);
    }
    words.reduce(total);
  }

  private static void apply(
      int[] total, Words words, byte[] key, int sign, byte[] zeros, byte[] stream) {
    int lane = words.lane();
    int width = CHUNK / lane;
    for (int first = 0, chunk = 0; first < total.length; first += width, chunk++) {
      int count = Math.min(width, total.length - first);
      new KeyedStream(key, block(chunk)).read(zeros, stream, count * lane);
      for (int i = 0; i < count; i++) {
        int word =
            lane == 2
                ? (stream[2 * i] & 255) | (stream[2 * i + 1] & 255) << 8
                : (int) Bytes.u32(stream, 4 * i);
        total[first + i] += sign * word;
      }
    }
  }

  private static byte[] block(int chunk) {
    byte[] block = new byte[16];
    for (int i = 0; i < 4; i++) {
      block[11 - i] = (byte) (chunk >> 8 * i);
    }
    block[15] = 2;
    return block;
  }
}
