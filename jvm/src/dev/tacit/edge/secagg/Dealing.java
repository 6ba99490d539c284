package dev.tacit.edge.secagg;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.crypto.Crypto;
import dev.tacit.edge.noise.Layers;
import dev.tacit.edge.wire.Packed;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;

/** Shares of a client's secrets for its neighbours, and pieces of theirs; pure functions. */
final class Dealing {
  private Dealing() {}

  /**
   * Splits a client's secrets among its neighbours.
   *
   * @param roots of the channels to them, in their order
   * @param key of the polynomials: 32 bytes, used once
   * @return ciphertexts and commitments
   */
  static byte[][] deal(
      Cohort cohort, long client, Secrets secrets, List<byte[]> roots, byte[] key) {
    List<Long> neighbours = cohort.neighbours(client);
    int[] points = neighbours.stream().mapToInt(cohort::point).toArray();
    byte[] chain = joined(Layers.chain(secrets.get("chain"), cohort.layers));
    byte[] whole = Bytes.join(secrets.get("mask"), secrets.get("self_seed"), chain);
    int[][] shares =
        Shamir.share(Shamir.words(whole), cohort.threshold, points, key);
    List<byte[]> ciphertexts = new ArrayList<>();
    List<byte[]> commitments = new ArrayList<>();
    for (int i = 0; i < points.length; i++) {
      long peer = neighbours.get(i);
      byte[] own = Secrets.channelKey(roots.get(i), client, peer);
      ciphertexts.add(Crypto.seal(own, Shamir.pack(shares[i]), Bytes.EMPTY));
      for (int kind = 0; kind < cohort.pieces(); kind++) {
        commitments.add(
            Secrets.commitment(
                secrets.session,
                client,
                peer,
                kind,
                shares[i],
                cohort.start(kind),
                cohort.length(kind)));
      }
    }
    return new byte[][] {joined(ciphertexts), joined(commitments)};
  }

  /**
   * For each neighbour among the members, a share of its self-mask, or of its key if it dropped.
   *
   * @param ciphertexts what they encrypted for this client
   * @throws TacitException MALFORMED: not one for each
   */
  static byte[] reveal(Cohort cohort, long client, Secrets secrets, byte[] ciphertexts) {
    List<Long> members = Packed.members(secrets.get("members"));
    Set<Long> survived = new HashSet<>(Packed.members(secrets.get("survivors")));
    int dropped = members.size() - survived.size();
    int size = Shamir.packedSize(cohort.words()) + Crypto.TAG_BYTES;
    List<Long> neighbours = cohort.neighbours(client);
    List<Long> peers = new ArrayList<>(neighbours);
    peers.retainAll(new HashSet<>(members));
    if (ciphertexts.length != size * peers.size()) {
      throw TacitException.malformed("the ciphertexts aren't one for each neighbour");
    }
    List<byte[]> parts = new ArrayList<>();
    for (int i = 0; i < peers.size(); i++) {
      long peer = peers.get(i);
      int[] kinds = cohort.revealed(survived.contains(peer), dropped, members.size());
      byte[] root = Bytes.slice(secrets.get("roots"), 32 * neighbours.indexOf(peer), 32);
      byte[] key = Secrets.channelKey(root, peer, client);
      parts.add(piece(cohort, kinds, key, Bytes.slice(ciphertexts, i * size, size)));
    }
    return joined(parts);
  }

  /** A mark and the pieces of these kinds; zeros where the peer sent this client rubbish. */
  private static byte[] piece(Cohort cohort, int[] kinds, byte[] key, byte[] sealed) {
    int count = 0;
    for (int kind : kinds) {
      count += cohort.length(kind);
    }
    int[] share;
    try {
      share = Shamir.unpack(Crypto.open(key, sealed, Bytes.EMPTY), cohort.words());
    } catch (TacitException rubbish) {
      return new byte[1 + Shamir.packedSize(count)];
    }
    int[] chosen = new int[count];
    int end = 0;
    for (int kind : kinds) {
      System.arraycopy(share, cohort.start(kind), chosen, end, cohort.length(kind));
      end += cohort.length(kind);
    }
    return Bytes.join(new byte[] {1}, Shamir.pack(chosen));
  }

  /** The parts, one after the other. */
  static byte[] joined(List<byte[]> parts) {
    return Bytes.join(parts.toArray(new byte[0][]));
  }
}
