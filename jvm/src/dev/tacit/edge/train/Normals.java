package dev.tacit.edge.train;

import dev.tacit.edge.crypto.Crypto;
import dev.tacit.edge.crypto.KeyedStream;

/**
 * Coins and normals from the platform's CSPRNG, expanded by AES-256-CTR under a key used once.
 *
 * <p>A normal is half the sum of four Box-Muller normals, as in `tacit.privacy.noise`.
 */
final class Normals {
  private final KeyedStream stream = new KeyedStream(Crypto.random(32));

  /** A double on [0, 1) in steps of 2^-53. */
  double uniform() {
    return (stream.words64(1)[0] >>> 11) * 0x1p-53;
  }

  /** True with a probability in (rate - 2^-53, rate]. */
  boolean coin(double rate) {
    return uniform() < Math.floor(rate * 0x1p53) * 0x1p-53;
  }

  /** A standard normal. */
  double normal() {
    double total = 0;
    for (int i = 0; i < 4; i++) {
      double radius = Math.sqrt(-2 * Math.log1p(-uniform()));
      total += radius * Math.cos(2 * Math.PI * uniform());
    }
    return total / 2;
  }
}
