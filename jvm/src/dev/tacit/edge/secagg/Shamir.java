package dev.tacit.edge.secagg;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.crypto.KeyedStream;

/**
 * Shamir's secret sharing over GF(65537), for many words of the same holders at once.
 *
 * <p>A secret is bytes, two to a word, little-endian; a share is from 0 to 65536. A device only
 * deals and passes on; {@link #reconstruct} is there for tests. `tacit.privacy.secagg.shamir`.
 */
public final class Shamir {
  static final int PRIME = 65537;

  private Shamir() {}

  /** The words of a secret of an even number of bytes. */
  public static int[] words(byte[] secret) {
    int[] out = new int[secret.length / 2];
    for (int i = 0; i < out.length; i++) {
      out[i] = (secret[2 * i] & 255) | (secret[2 * i + 1] & 255) << 8;
    }
    return out;
  }

  /**
   * Shares of words for holders.
   *
   * @param secrets the words
   * @param threshold how many shares give them back
   * @param points where each holder evaluates: distinct, from 1 to 65536
   * @param key 32 bytes that were never used and never will be
   * @return a row for each holder
   */
  public static int[][] share(int[] secrets, int threshold, int[] points, byte[] key) {
    if (threshold < 1 || threshold > points.length) {
      throw new IllegalArgumentException("threshold=" + threshold + " isn't of the holders");
    }
    int size = secrets.length;
    int[][] coefficients = new int[threshold][];
    coefficients[0] = secrets;
    int[] drawn = uniform(new KeyedStream(key), (threshold - 1) * size);
    for (int e = 1; e < threshold; e++) {
      coefficients[e] = new int[size];
      System.arraycopy(drawn, (e - 1) * size, coefficients[e], 0, size);
    }
    int[][] shares = new int[points.length][size];
    for (int i = 0; i < points.length; i++) {
      for (int j = 0; j < size; j++) {
        long value = 0;
        for (int e = threshold - 1; e >= 0; e--) {
          value = (value * points[i] + coefficients[e][j]) % PRIME;
        }
        shares[i][j] = (int) value;
      }
    }
    return shares;
  }

  /** Uniform on the field: of 32-bit words, 2^32 - 1 is left out. */
  private static int[] uniform(KeyedStream stream, int size) {
    int[] found = new int[size];
    int done = 0;
    while (done < size) {
      for (int word : stream.words32(size - done)) {
        if (word != -1) {
          found[done++] = Integer.remainderUnsigned(word, PRIME);
        }
      }
    }
    return found;
  }

  /** The words of exactly as many shares as the threshold: Lagrange's interpolation at 0. */
  public static int[] reconstruct(int[] points, int[][] shares) {
    long[] total = new long[shares[0].length];
    for (int i = 0; i < points.length; i++) {
      long over = 1;
      long under = 1;
      for (int j = 0; j < points.length; j++) {
        if (j != i) {
          over = over * points[j] % PRIME;
          under = under * Math.floorMod(points[j] - points[i], PRIME) % PRIME;
        }
      }
      long weight = over * power(under, PRIME - 2) % PRIME;
      for (int k = 0; k < total.length; k++) {
        total[k] = (total[k] + weight * shares[i][k]) % PRIME;
      }
    }
    int[] out = new int[total.length];
    for (int k = 0; k < out.length; k++) {
      out[k] = (int) total[k];
    }
    return out;
  }

  private static long power(long base, int exponent) {
    long made = 1;
    for (int e = exponent; e > 0; e >>= 1) {
      made = (e & 1) == 1 ? made * base % PRIME : made;
      base = base * base % PRIME;
    }
    return made;
  }

  /** Bytes of so many packed shares. */
  public static int packedSize(int count) {
    return 2 * count + (count + 7) / 8;
  }

  /** The low 16 bits of each share, little-endian, then a bit each, from the lowest, for 65536. */
  public static byte[] pack(int[] shares) {
    byte[] out = new byte[packedSize(shares.length)];
    for (int i = 0; i < shares.length; i++) {
      out[2 * i] = (byte) shares[i];
      out[2 * i + 1] = (byte) (shares[i] >> 8);
      if (shares[i] == PRIME - 1) {
        out[2 * shares.length + i / 8] |= 1 << (i % 8);
      }
    }
    return out;
  }

  /**
   * Reads shares.
   *
   * @throws TacitException MALFORMED: not what {@link #pack} makes of so many
   */
  public static int[] unpack(byte[] data, int count) {
    if (data.length != packedSize(count)) {
      throw TacitException.malformed(count + " packed shares have another length");
    }
    int[] out = new int[count];
    for (int i = 0; i < 8 * ((count + 7) / 8); i++) {
      boolean top = (data[2 * count + i / 8] >> (i % 8) & 1) == 1;
      int low = i < count ? (data[2 * i] & 255) | (data[2 * i + 1] & 255) << 8 : 1;
      if (top && low != 0) {
        throw TacitException.malformed("packed shares: a bit is set that shouldn't be");
      }
      if (i < count) {
        out[i] = top ? PRIME - 1 : low;
      }
    }
    return out;
  }
}
