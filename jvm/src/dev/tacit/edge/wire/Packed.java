package dev.tacit.edge.wire;

import dev.tacit.edge.TacitException;
import dev.tacit.edge.crypto.Bytes;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.TreeSet;

/** Lists of clients, roster entries and signatures as fixed records, clients ascending. */
public final class Packed {
  private static final int ENTRY = 4 + 32 + 32 + 64;
  private static final int SIGNED = 4 + 64;

  private Packed() {}

  /** One client in a roster. */
  public static final class Entry {
    public final long client;
    public final byte[] channel;
    public final byte[] mask;
    public final byte[] signature;

    Entry(long client, byte[] channel, byte[] mask, byte[] signature) {
      this.client = client;
      this.channel = channel;
      this.mask = mask;
      this.signature = signature;
    }
  }

  /** A client's signature. */
  public static final class Signed {
    public final long client;
    public final byte[] signature;

    Signed(long client, byte[] signature) {
      this.client = client;
      this.signature = signature;
    }
  }

  /** Clients in ascending order, four bytes each. */
  public static byte[] members(Collection<Long> clients) {
    byte[] out = new byte[4 * clients.size()];
    int at = 0;
    for (long client : new TreeSet<>(clients)) {
      Bytes.put32(out, at, client);
      at += 4;
    }
    return out;
  }

  /**
   * Reads {@link #members}.
   *
   * @throws TacitException MALFORMED: a wrong length or order
   */
  public static List<Long> members(byte[] data) {
    List<Long> found = new ArrayList<>();
    for (int at : starts(data, 4)) {
      found.add(Bytes.u32(data, at));
    }
    ascending(found);
    return found;
  }

  /**
   * A roster's entries.
   *
   * @throws TacitException MALFORMED: a wrong length or order
   */
  public static List<Entry> roster(byte[] data) {
    List<Entry> found = new ArrayList<>();
    List<Long> clients = new ArrayList<>();
    for (int at : starts(data, ENTRY)) {
      clients.add(Bytes.u32(data, at));
      found.add(
          new Entry(
              Bytes.u32(data, at),
              Bytes.slice(data, at + 4, 32),
              Bytes.slice(data, at + 36, 32),
              Bytes.slice(data, at + 68, 64)));
    }
    ascending(clients);
    return found;
  }

  /**
   * Clients with their signatures.
   *
   * @throws TacitException MALFORMED: a wrong length or order
   */
  public static List<Signed> signed(byte[] data) {
    List<Signed> found = new ArrayList<>();
    List<Long> clients = new ArrayList<>();
    for (int at : starts(data, SIGNED)) {
      clients.add(Bytes.u32(data, at));
      found.add(new Signed(Bytes.u32(data, at), Bytes.slice(data, at + 4, 64)));
    }
    ascending(clients);
    return found;
  }

  private static int[] starts(byte[] data, int size) {
    if (data.length % size != 0) {
      throw TacitException.malformed("a list of bytes isn't of " + size + " bytes each");
    }
    int[] found = new int[data.length / size];
    for (int i = 0; i < found.length; i++) {
      found[i] = i * size;
    }
    return found;
  }

  private static void ascending(List<Long> clients) {
    for (int i = 1; i < clients.size(); i++) {
      if (clients.get(i - 1) >= clients.get(i)) {
        throw TacitException.malformed("clients should be in ascending order, each once");
      }
    }
  }
}
