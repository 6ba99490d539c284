package dev.tacit.edge.noise;

import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.crypto.Crypto;
import java.util.ArrayList;
import java.util.List;

/**
 * A client's share of the noise, in layers that can be taken off when nobody drops out.
 *
 * <p>`tacit.privacy.discrete.layers`: a base share of variance v/n, and layers k = 1..T of
 * variance v/((n-k)(n-k+1)), each layer's key a hash of the one before.
 */
public final class Layers {
  public static final int SEED_BYTES = 16;

  private final String law;
  private final double variance;
  private final int clients;
  private final int layers;

  /**
   * The noise of one round's vectors.
   *
   * @param law "skellam" or "discrete_gaussian"
   * @param variance of the whole noise in each coordinate; 0 adds none
   * @param clients how many add a share
   * @param layers how many of them may drop
   */
  public Layers(String law, double variance, int clients, int layers) {
    if (layers < 0 || layers >= clients || !(variance >= 0)) {
      throw new IllegalArgumentException("layers=" + layers + " must be below clients=" + clients);
    }
    this.law = law;
    this.variance = variance;
    this.clients = clients;
    this.layers = layers;
  }

  /** The seeds of so many layers from one on, each the hash of the one before. */
  public static List<byte[]> chain(byte[] seed, int count) {
    List<byte[]> seeds = new ArrayList<>();
    for (int i = 0; i < count; i++) {
      seeds.add(seed);
      seed = Bytes.slice(hash("next", seed), 0, SEED_BYTES);
    }
    return seeds;
  }

  /** Variance of one client's layer; 0 is the base share. */
  double layerVariance(int k) {
    long left = clients - k;
    return variance / (k == 0 ? clients : left * (left + 1));
  }

  /** Adds one client's whole share to its vector, in place. */
  public void add(long[] vector, byte[] base, byte[] seed) {
    if (variance == 0) {
      return;
    }
    draw(vector, 0, base);
    int k = 1;
    for (byte[] own : chain(seed, layers)) {
      draw(vector, k++, hash("layer", own));
    }
  }

  private void draw(long[] vector, int k, byte[] key) {
    int[] drawn = Table.of(law, layerVariance(k)).sample(vector.length, key);
    for (int i = 0; i < vector.length; i++) {
      vector[i] += drawn[i];
    }
  }

  private static byte[] hash(String word, byte[] seed) {
    return Crypto.sha256(Bytes.utf8("tacit noise " + word + "\0"), seed);
  }
}
