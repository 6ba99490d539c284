package dev.tacit.edge.secagg;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.crypto.Bytes;

/** Integers modulo 2^b, in lanes of an {@code int[]}, and their bytes; b is 16, 20 or 32. */
public final class Words {
  private final int bits;
  private final int low;

  /** Words of so many bits. */
  public Words(int bits) {
    if (bits != 16 && bits != 20 && bits != 32) {
      throw new IllegalArgumentException("bits=" + bits + " must be one of 16, 20, 32");
    }
    this.bits = bits;
    low = bits == 32 ? -1 : (1 << bits) - 1;
  }

  /** Bytes that a lane of a mask takes. */
  int lane() {
    return bits == 16 ? 2 : 4;
  }

  /** The integers modulo 2^b. */
  public int[] of(long[] integers) {
    int[] out = new int[integers.length];
    for (int i = 0; i < out.length; i++) {
      out[i] = (int) integers[i] & low;
    }
    return out;
  }

  /** Brings lanes below 2^b, in place. */
  public int[] reduce(int[] words) {
    for (int i = 0; i < words.length; i++) {
      words[i] &= low;
    }
    return words;
  }

  /** The representatives around zero. */
  public long[] centred(int[] words) {
    long[] out = new long[words.length];
    for (int i = 0; i < out.length; i++) {
      out[i] = words[i] << (32 - bits) >> (32 - bits);
    }
    return out;
  }

  /** How many bytes {@link #pack} makes of so many words. */
  public int sizeOf(int count) {
    return bits == 20 ? 5 * ((count + 1) / 2) : count * bits / 8;
  }

  /** The words' encoding, little-endian; of 20 bits two in 5 bytes, the first in the low bits. */
  public byte[] pack(int[] words) {
    byte[] out = new byte[sizeOf(words.length)];
    if (bits == 20) {
      for (int i = 0; i < words.length; i += 2) {
        long second = i + 1 < words.length ? words[i + 1] & 0xFFFFFL : 0;
        long both = (words[i] & 0xFFFFFL) | second << 20;
        for (int k = 0; k < 5; k++) {
          out[5 * (i / 2) + k] = (byte) (both >> 8 * k);
        }
      }
      return out;
    }
    int size = bits / 8;
    for (int i = 0; i < words.length; i++) {
      for (int k = 0; k < size; k++) {
        out[size * i + k] = (byte) (words[i] >> 8 * k);
      }
    }
    return out;
  }

  /**
   * Reads {@code count} words.
   *
   * @throws TacitException MALFORMED: not the encoding of so many
   */
  public int[] unpack(byte[] data, int count) {
    if (data.length != sizeOf(count)) {
      throw TacitException.malformed(count + " words of " + bits + " bits have another length");
    }
    int[] out = new int[count];
    if (bits != 20) {
      for (int i = 0; i < count; i++) {
        out[i] =
            bits == 32
                ? (int) Bytes.u32(data, 4 * i)
                : (data[2 * i] & 255) | (data[2 * i + 1] & 255) << 8;
      }
      return out;
    }
    for (int i = 0; i < count; i += 2) {
      long both = 0;
      for (int k = 0; k < 5; k++) {
        both |= (data[5 * (i / 2) + k] & 255L) << 8 * k;
      }
      out[i] = (int) both & low;
      if (i + 1 < count) {
        out[i + 1] = (int) (both >> 20) & low;
      } else if (both >> 20 != 0) {
        throw TacitException.malformed("words of 20 bits: the padding isn't zero");
      }
    }
    return out;
  }
}
