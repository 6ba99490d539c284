package dev.tacit.edge.secagg;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.crypto.Bytes;
import dev.tacit.edge.crypto.Crypto;
import dev.tacit.edge.wire.Packed;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** A roster and what follows from it and the rules: neighbours, threshold, layers, pieces. */
public final class Cohort {
  static final int KEY_WORDS = 16;
  static final int SEED_WORDS = 8;

  public final Rules rules;
  public final List<Long> clients = new ArrayList<>();
  public final byte[] digest;
  public final int threshold;
  /** As many as could be needed; fewer members need fewer. */
  public final int layers;

  private final Map<Long, Packed.Entry> entries = new HashMap<>();
  private final Map<Long, Integer> position = new HashMap<>();
  private final Graph.Choice choice;
  private final int[] order;

  /**
   * The cohort of a packed roster.
   *
   * @throws TacitException MALFORMED, or PROTOCOL: fewer or more clients than the rules allow
   */
  public Cohort(byte[] roster, Rules rules) {
    this.rules = rules;
    for (Packed.Entry entry : Packed.roster(roster)) {
      position.put(entry.client, clients.size());
      clients.add(entry.client);
      entries.put(entry.client, entry);
    }
    if (clients.size() < rules.minimum || clients.size() > rules.largest) {
      throw TacitException.protocol(
          "a roster of " + clients.size() + " clients isn't between minimum=" + rules.minimum
              + " and largest=" + rules.largest);
    }
    digest = Crypto.sha256(Bytes.utf8("tacit roster\0"), roster);
    choice = rules.choice(clients.size());
    threshold = choice.threshold;
    layers = rules.layers(clients.size());
    order = Graph.circle(clients.size(), digest);
  }

  /** How many clients. */
  public int size() {
    return clients.size();
  }

  /** A client's entry, or null. */
  public Packed.Entry entry(long client) {
    return entries.get(client);
  }

  /** Everybody's entries. */
  public Collection<Packed.Entry> entries() {
    return entries.values();
  }

  /** Fewest members with which a session goes on. */
  public int fewest() {
    return Math.max(Math.max(rules.minimum, threshold), rules.quorum(size()));
  }

  /** Whom a client exchanges shares and masks with, ascending. */
  public List<Long> neighbours(long client) {
    List<Integer> found = new ArrayList<>();
    for (int[] side : Graph.sides(position.get(client), order, choice.degree)) {
      for (int one : side) {
        found.add(one);
      }
    }
    found.sort(null);
    List<Long> out = new ArrayList<>();
    for (int one : found) {
      out.add(clients.get(one));
    }
    return out;
  }

  /** Whether enough of a client's neighbours on each side are among these. */
  public boolean enoughAround(long client, Collection<Long> survivors) {
    if (choice.side == 0) {
      return true;
    }
    Set<Long> alive = new HashSet<>(survivors);
    for (int[] side : Graph.sides(position.get(client), order, choice.degree)) {
      long count = Arrays.stream(side).filter(i -> alive.contains(clients.get(i))).count();
      if (count < choice.side) {
        return false;
      }
    }
    return true;
  }

  /** Where a client's shares are evaluated. */
  public int point(long client) {
    return position.get(client) + 1;
  }

  /** How many kinds of pieces a share has: key, self-mask seed, seed of each layer. */
  public int pieces() {
    return 2 + layers;
  }

  /** Where a piece begins among a share's words. */
  public int start(int kind) {
    return kind < 2 ? kind * KEY_WORDS : 2 * KEY_WORDS + (kind - 2) * SEED_WORDS;
  }

  /** Words of a piece. */
  public int length(int kind) {
    return kind < 2 ? KEY_WORDS : SEED_WORDS;
  }

  /** Words of a whole share. */
  public int words() {
    return start(pieces());
  }

  /** Which pieces a peer's share is revealed of: never key and self-mask both. */
  public int[] revealed(boolean survived, int dropped, int members) {
    if (!survived) {
      return new int[] {0};
    }
    return dropped < rules.layers(members) ? new int[] {1, 2 + dropped} : new int[] {1};
  }

  static List<Long> missing(Collection<Long> of, Collection<Long> among) {
    List<Long> found = new ArrayList<>(of);
    found.removeAll(new HashSet<>(among));
    return found;
  }
}
