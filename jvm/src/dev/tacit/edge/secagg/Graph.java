package dev.tacit.edge.secagg;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.TacitException.Reason;
import dev.tacit.edge.crypto.Crypto;
import dev.tacit.edge.crypto.KeyedStream;
import java.util.Arrays;

/**
 * Who masks with whom: below 300 clients everybody, from 300 on the k nearest on a random circle.
 *
 * <p>What `tacit.privacy.secagg.graph` proves holds of the same numbers here: degree, threshold
 * and side are chosen by the same bounds, from logarithms of factorials.
 */
final class Graph {
  private static final int SPARSE_FROM = 300;
  private static final double SECURITY_BITS = 40;
  private static final double CORRECTNESS_BITS = 30;
  private static final double TRIES_BITS = 64;
  private static final double LN2 = Math.log(2);

  private Graph() {}

  /** A graph's degree, the threshold of its shares, and what must survive on either side. */
  static final class Choice {
    final int degree;
    final int threshold;
    final int side;

    Choice(int degree, int threshold, int side) {
      this.degree = degree;
      this.threshold = threshold;
      this.side = side;
    }
  }

  /** The sparsest graph that keeps the promises; below 300 clients the complete. */
  static Choice choose(int size, int corrupted, double dropout) {
    if (size >= SPARSE_FROM && corrupted < size) {
      Chances chances = new Chances(size, corrupted, dropout);
      for (int degree = 2; degree < size - 1; degree += 2) {
        Choice found = sparse(chances, degree);
        if (found != null) {
          return found;
        }
      }
    }
    int degree = size - 1;
    int threshold = threshold(degree);
    if (2 * threshold <= degree + corrupted) {
      throw new TacitException(
          Reason.PLAN, "corrupted=" + corrupted + " of size=" + size + " is too many");
    }
    return new Choice(degree, threshold, 0);
  }

  private static int threshold(int degree) {
    return 2 * degree / 3 + 1;
  }

  private static Choice sparse(Chances of, int degree) {
    int threshold = threshold(degree);
    int half = degree / 2;
    double honest = log2(of.size - of.corrupted);
    double outvoted = honest + of.corrupted(2 * threshold - degree, degree);
    if (-outvoted - TRIES_BITS < SECURITY_BITS) {
      return null;
    }
    double rate = of.corrupted / (of.size - 1.0);
    double cut = honest + half * log2(rate + (1 - rate) * of.dropout);
    int side = side(of, half, -(SECURITY_BITS + TRIES_BITS + 1) - honest);
    double fooled = honest + of.corrupted(side, half);
    double security = -sum2(sum2(outvoted, cut), fooled) - TRIES_BITS;
    if (side > half || security < SECURITY_BITS) {
      return null;
    }
    double clients = log2(of.size);
    double correctness =
        -sum2(
            clients + of.dropped(degree - threshold + 1, degree),
            clients + 1 + of.dropped(half - side + 1, half));
    return correctness < CORRECTNESS_BITS ? null : new Choice(degree, threshold, side);
  }

  private static int side(Chances of, int half, double wanted) {
    int above = 0;
    for (int least = 0; least <= half; least++) {
      if (of.corrupted(least, half) > wanted) {
        above++;
      }
    }
    return Math.max(1, above);
  }

  private static double log2(double value) {
    return value > 0 ? Math.log(value) / LN2 : Double.NEGATIVE_INFINITY;
  }

  private static double sum2(double a, double b) {
    double most = Math.max(a, b);
    if (most == Double.NEGATIVE_INFINITY) {
      return most;
    }
    return most + Math.log1p(Math.pow(2, Math.min(a, b) - most)) / LN2;
  }

  /** Tails of the hypergeometric and of the binomial law, as base-2 logarithms. */
  private static final class Chances {
    final int size;
    final int corrupted;
    final double dropout;
    private final double[] factorial;

    Chances(int size, int corrupted, double dropout) {
      this.size = size;
      this.corrupted = corrupted;
      this.dropout = dropout;
      factorial = new double[size + 1];
      double lost = 0;
      for (int i = 2; i <= size; i++) {
        double term = Math.log(i) - lost;
        factorial[i] = factorial[i - 1] + term;
        lost = factorial[i] - factorial[i - 1] - term;
      }
    }

    private double choose(int n, int k) {
      return k < 0 || k > n
          ? Double.NEGATIVE_INFINITY
          : factorial[n] - factorial[k] - factorial[n - k];
    }

    /** Of {@code least} or more corrupted among {@code draws} of a client's peers. */
    double corrupted(int least, int draws) {
      double total = Double.NEGATIVE_INFINITY;
      for (int k = Math.max(0, least); k <= draws; k++) {
        double log =
            choose(corrupted, k)
                + choose(size - 1 - corrupted, draws - k)
                - choose(size - 1, draws);
        total = sum2(total, log / LN2);
      }
      return total;
    }

    /** Of {@code least} or more of {@code peers} dropping out. */
    double dropped(int least, int peers) {
      double total = Double.NEGATIVE_INFINITY;
      for (int k = Math.max(0, least); k <= peers; k++) {
        if (dropout > 0 || k == 0) {
          double none = k == peers ? 0 : (peers - k) * Math.log1p(-dropout);
          double log = choose(peers, k) + (k == 0 ? 0 : k * Math.log(dropout)) + none;
          total = sum2(total, log / LN2);
        }
      }
      return total;
    }
  }

  /** The circle's order of positions: they sort by 64-bit words of a stream of the seed's hash. */
  static int[] circle(int size, byte[] seed) {
    long[] words = new KeyedStream(Crypto.derive("tacit.secagg.graph", seed)).words64(size);
    Integer[] order = new Integer[size];
    Arrays.setAll(order, i -> i);
    // Stable, as is the other side's.
    Arrays.sort(order, (a, b) -> Long.compareUnsigned(words[a], words[b]));
    int[] out = new int[size];
    Arrays.setAll(out, i -> order[i]);
    return out;
  }

  /** The positions before and after one on the circle, the nearest first. */
  static int[][] sides(int position, int[] order, int degree) {
    int rank = 0;
    while (order[rank] != position) {
      rank++;
    }
    int size = order.length;
    int before = degree / 2;
    int[][] found = {new int[before], new int[degree - before]};
    for (int step = 1; step <= degree - before; step++) {
      if (step <= before) {
        found[0][step - 1] = order[Math.floorMod(rank - step, size)];
      }
      found[1][step - 1] = order[(rank + step) % size];
    }
    return found;
  }
}
