package dev.tacit.edge.noise;

import dev.tacit.edge.crypto.KeyedStream;

/**
 * From a bounded vector to integers: rotate, scale, round, check.
 *
 * <p>Guarantees that what {@link #encode} returns has an L2 norm of at most the lattice's bound,
 * checked on the integers themselves where rounding is conditional (Kairouz, Liu, Steinke 2021,
 * Algorithm 1). Where it isn't, rounding depends on one dither alone. The rotation is in doubles,
 * so a coordinate may round to the other side of a whole number than another implementation's
 * would: that moves nothing by more than the rounding itself, and nobody has to repeat it.
 */
public final class Encoder {
  public static final double MARGIN = 1.0 - 1.0 / (1 << 20);
  private static final int ATTEMPTS = 100;
  private static final double SINGLE = 65536;

  private Encoder() {}

  /**
   * A vector on the lattice, without vote and noise.
   *
   * @param vector scaled down if its norm exceeds {@code bound}; zero if that isn't finite
   * @param bound what the lattice's norm stands for, in the vector's units
   * @param lattice of the plan
   * @param signs 32 bytes, the round's public rotation
   * @param key 32 bytes, of the dither; used once
   */
  public static long[] encode(
      double[] vector, double bound, Lattice lattice, byte[] signs, byte[] key) {
    if (vector.length != lattice.dimension) {
      throw new IllegalArgumentException("a vector of " + vector.length + " numbers");
    }
    double norm = norm(vector);
    boolean finite = !Double.isNaN(norm) && !Double.isInfinite(norm);
    double scale = lattice.norm * MARGIN / Math.max(finite ? norm : 0, bound);
    double[] exact = new double[vector.length];
    // Single precision is enough where what it loses is far below what rounding may add.
    boolean single = lattice.conditional && lattice.norm <= SINGLE;
    for (int i = 0; i < exact.length && finite; i++) {
      exact[i] = single ? (float) (vector[i] * scale) : vector[i] * scale;
    }
    if (lattice.rotated) {
      exact = Rotation.rotate(exact, signs);
    }
    KeyedStream stream = new KeyedStream(key);
    double limit = Math.floor(lattice.bound() * lattice.bound());
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
      long[] whole = single ? coarse(exact, stream) : fine(exact, stream);
      if (!lattice.conditional || squared(whole) <= limit) {
        return whole;
      }
    }
    return new long[lattice.coordinates()];
  }

  /** The L2 norm. */
  public static double norm(double[] vector) {
    double total = 0;
    for (double value : vector) {
      total += value * value;
    }
    return Math.sqrt(total);
  }

  private static long[] coarse(double[] values, KeyedStream stream) {
    int[] drawn = stream.words16(values.length);
    long[] whole = new long[values.length];
    for (int i = 0; i < whole.length; i++) {
      float moved = (float) values[i] + drawn[i] * 0x1p-16f;
      whole[i] = (long) Math.floor(moved);
    }
    return whole;
  }

  private static long[] fine(double[] values, KeyedStream stream) {
    int[] drawn = stream.words32(values.length);
    long[] whole = new long[values.length];
    for (int i = 0; i < whole.length; i++) {
      whole[i] = (long) Math.floor(values[i] + (drawn[i] & 0xFFFFFFFFL) * 0x1p-32);
    }
    return whole;
  }

  private static double squared(long[] whole) {
    double total = 0;
    for (long value : whole) {
      total += (double) value * value;
    }
    return total;
  }
}
