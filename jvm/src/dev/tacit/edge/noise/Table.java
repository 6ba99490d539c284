package dev.tacit.edge.noise;

import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.crypto.Crypto;
import dev.tacit.edge.crypto.KeyedStream;
import java.math.BigInteger;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Samples of a symmetric law on the integers by inversion, from a table, with lazy bits.
 *
 * <p>The same law, size and key give the same numbers as `tacit.privacy.discrete.table`: no
 * floating point is involved (tests/vectors/noise.json). A sample is a sign bit and {@code #{k >=
 * 1: V < S(k)}}; the first bits of V select a cell of a guide, where that doesn't decide V is
 * completed to 64 bits, and to 256 where even those are equal. A key is for one draw.
 */
public final class Table {
  private static final byte[] REFINE = Bytes.utf8("tacit/discrete/table/refine/1");
  private static final byte[] DECIDE = Bytes.utf8("tacit/discrete/table/decide/1");
  private static final int PIECE = 1 << 16;
  private static final int KEPT = 64;
  private static final Map<String, Table> TABLES =
      new LinkedHashMap<>(16, 0.75f, true) {
        private static final long serialVersionUID = 1L;

        @Override
        protected boolean removeEldestEntry(Map.Entry<String, Table> eldest) {
          return size() > KEPT;
        }
      };

  private final Law law;
  private final int skip;
  private final long[] tops;
  private final int[] guide;
  private final int wordBits;
  private final int drop;

  /**
   * The table of a law; {@link #of} keeps them.
   *
   * @param law which
   * @param depth how many of its 64 bits the second stage looks at; fewer than 64 change no
   *     sample, and are for tests
   */
  public Table(Law law, int depth) {
    this.law = law;
    skip = 64 - depth;
    List<BigInteger> prefixes = Law.survival(law.weights(), 64);
    tops = new long[prefixes.size()];
    for (int i = 0; i < tops.length; i++) {
      tops[i] = prefixes.get(i).longValue();
    }
    int bits = law.variance <= 100.0 * 100 ? 16 : law.variance <= 2000.0 * 2000 ? 18 : 20;
    guide = guide(tops, bits);
    wordBits = bits == 16 ? 16 : 32;
    drop = wordBits - bits;
  }

  /** The table of a law, made once and kept with the last used. */
  public static synchronized Table of(String name, double variance) {
    return TABLES.computeIfAbsent(
        name + " " + Double.doubleToLongBits(variance),
        key -> new Table(new Law(name, variance), 64));
  }

  private static int[] guide(long[] tops, int bits) {
    int half = 1 << (bits - 1);
    int[] crossings = new int[half];
    for (long top : tops) {
      crossings[(int) (top >>> (65 - bits))]++;
    }
    int[] made = new int[2 * half];
    int magnitude = tops.length;
    for (int cell = 0; cell < half; cell++) {
      magnitude -= crossings[cell];
      // All S(k) below 2^-64 are in the first cell.
      int unsure = crossings[cell] > 0 || cell == 0 ? 1 : 0;
      made[cell] = 2 * magnitude + unsure;
      made[half + cell] = -2 * magnitude + unsure;
    }
    return made;
  }

  /** Independent samples: a pure function of the law, {@code size} and a key of 32 bytes. */
  public int[] sample(int size, byte[] key) {
    KeyedStream stream = new KeyedStream(key);
    int[] drawn = new int[size];
    int[] words = new int[256];
    int[] places = new int[256];
    int unsure = 0;
    for (int start = 0; start < size; start += PIECE) {
      int count = Math.min(PIECE, size - start);
      int[] read = wordBits == 16 ? stream.words16(count) : stream.words32(count);
      for (int i = 0; i < count; i++) {
        int found = guide[read[i] >>> drop];
        drawn[start + i] = found >> 1;
        if ((found & 1) == 1) {
          if (unsure == words.length) {
            words = java.util.Arrays.copyOf(words, 2 * unsure);
            places = java.util.Arrays.copyOf(places, 2 * unsure);
          }
          words[unsure] = read[i];
          places[unsure++] = start + i;
        }
      }
    }
    if (unsure > 0) {
      refine(drawn, words, places, unsure, key);
    }
    return drawn;
  }

  private void refine(int[] drawn, int[] words, int[] places, int count, byte[] key) {
    int used = wordBits - 1;
    long[] fresh = new KeyedStream(subkey(REFINE, key, 0)).words64(count);
    for (int i = 0; i < count; i++) {
      long word = words[i] & 0xFFFFFFFFL;
      // The word without its sign, then fresh bits.
      long prefix = word << (64 - used) | fresh[i] >>> used;
      long seen = seen(prefix);
      int least = Math.abs(drawn[places[i]]);
      int magnitude = above(least, seen) ? search(seen) : least;
      if (seen(survival(magnitude)) == seen) {
        magnitude = decide(prefix, places[i], key);
      }
      drawn[places[i]] = word >>> used == 1 ? -magnitude : magnitude;
    }
  }

  /** S(m + 1) in steps of 2^-64; 0 beyond the table. */
  private long survival(int m) {
    return m < tops.length ? tops[m] : 0;
  }

  private long seen(long prefix) {
    return skip == 64 ? 0 : prefix >>> skip;
  }

  private boolean above(int m, long seen) {
    return Long.compareUnsigned(seen, seen(survival(m))) < 0;
  }

  /** How many S(k) are above what is seen. */
  private int search(long seen) {
    int low = 0;
    int high = tops.length;
    while (low < high) {
      int middle = (low + high) >>> 1;
      if (above(middle, seen)) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  /** The magnitude from all bits of V, of which {@code prefix} is the first 64. */
  private int decide(long prefix, int place, byte[] key) {
    byte[] rest = Bytes.slice(subkey(DECIDE, key, place), 0, 24);
    BigInteger value =
        new BigInteger(Long.toUnsignedString(prefix))
            .shiftLeft(192)
            .or(new BigInteger(1, rest));
    List<BigInteger> exact = Law.survival(law.weights(), Law.FRACTION_BITS);
    int low = 0;
    int high = exact.size();
    while (low < high) {
      int middle = (low + high) >>> 1;
      if (value.compareTo(exact.get(middle)) < 0) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  private static byte[] subkey(byte[] tag, byte[] key, long place) {
    byte[] number = new byte[8];
    for (int i = 0; i < 8; i++) {
      number[i] = (byte) (place >>> (56 - 8 * i));
    }
    return Crypto.sha256(tag, key, number);
  }
}
