package dev.tacit.edge.noise;

import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.crypto.Crypto;
import dev.tacit.edge.crypto.KeyedStream;

/** Randomised Walsh-Hadamard rotation, in doubles: H D x / sqrt(n), n a power of two. */
public final class Rotation {
  private Rotation() {}

  /** The seed of a round's rotation, as everybody derives it. */
  public static byte[] publicSeed(String purpose, long round) {
    return Crypto.sha256(Bytes.utf8("tacit rotation\0" + purpose + "\0" + round));
  }

  /** The power of two that a vector of this length is padded to. */
  public static int padded(int dimension) {
    return dimension <= 1 ? 1 : Integer.highestOneBit(dimension - 1) << 1;
  }

  /** The rotated vector, padded. */
  public static double[] rotate(double[] vector, byte[] seed) {
    double[] wide = new double[padded(vector.length)];
    byte[] bits = new KeyedStream(seed).read((vector.length + 7) / 8);
    for (int i = 0; i < vector.length; i++) {
      boolean minus = (bits[i / 8] >> (7 - i % 8) & 1) == 1;
      wide[i] = minus ? -vector[i] : vector[i];
    }
    for (int half = 1; half < wide.length; half *= 2) {
      for (int first = 0; first < wide.length; first += 2 * half) {
        for (int i = first; i < first + half; i++) {
          double sum = wide[i] + wide[i + half];
          wide[i + half] = wide[i] - wide[i + half];
          wide[i] = sum;
        }
      }
    }
    double root = Math.sqrt(wide.length);
    for (int i = 0; i < wide.length; i++) {
      wide[i] /= root;
    }
    return wide;
  }
}
